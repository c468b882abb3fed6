package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	pb "meshtrio/goservice/gen/echopb"
)

type echo struct {
	pb.UnimplementedEchoServiceServer
}

func reply(message string) *pb.EchoReply {
	instance, _ := strconv.ParseUint(os.Getenv("PLUGIN_INSTANCE"), 10, 32)
	return &pb.EchoReply{Message: message, Instance: uint32(instance), Pid: uint32(os.Getpid())}
}

func (echo) Echo(_ context.Context, request *pb.EchoRequest) (*pb.EchoReply, error) {
	return reply(request.Message), nil
}

func (echo) Slow(ctx context.Context, request *pb.SlowRequest) (*pb.EchoReply, error) {
	select {
	case <-time.After(time.Duration(request.Seconds * float64(time.Second))):
		return reply(request.Message), nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (echo) Repeat(request *pb.RepeatRequest, stream pb.EchoService_RepeatServer) error {
	for range request.Count {
		if err := stream.Send(reply(request.Message)); err != nil {
			return err
		}
	}
	return nil
}

func (echo) Join(stream pb.EchoService_JoinServer) error {
	var messages []string
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(reply(strings.Join(messages, " ")))
		}
		if err != nil {
			return err
		}
		messages = append(messages, request.Message)
	}
}

func (echo) Chat(stream pb.EchoService_ChatServer) error {
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(reply(request.Message)); err != nil {
			return err
		}
	}
}

// A caller that gives up at its deadline cancels the call too, which may be heard first.
const deadlineSlack = 50 * time.Millisecond

// tell writes a line about a handler of ours that was cut short.
func tell(ctx context.Context, method string, err error) {
	service, name := path.Split(method)
	if err == nil || ctx.Err() == nil || service != "/"+pb.EchoService_ServiceDesc.ServiceName+"/" {
		return
	}
	word := "cancelled"
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < deadlineSlack {
		word = "deadline"
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", word, name)
}

func tellUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	reply, err := handler(ctx, request)
	tell(ctx, info.FullMethod, err)
	return reply, err
}

func tellStream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := handler(service, stream)
	tell(stream.Context(), info.FullMethod, err)
	return err
}
