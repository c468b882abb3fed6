package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats/opentelemetry"
	"google.golang.org/grpc/status"
)

// What a handler is asked to do by metadata is told in tests/interop/metrics/constants.py.
type service struct {
	pb.UnimplementedTestServiceServer
	lock  sync.Mutex
	calls map[string]int
}

func serve(socket string, options opentelemetry.Options) {
	listener, err := net.Listen("unix", socket)
	check(err)
	server := grpc.NewServer(opentelemetry.ServerOption(options))
	pb.RegisterTestServiceServer(server, &service{calls: map[string]int{}})
	go func() { check(server.Serve(listener)) }()
}

func body(size int32) *pb.Payload {
	return &pb.Payload{Body: make([]byte, size)}
}

func asked(ctx context.Context, key string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get(key), ",")
}

func failure(said *pb.EchoStatus) error {
	if said.GetCode() == 0 {
		return nil
	}
	return status.Error(codes.Code(said.GetCode()), said.GetMessage())
}

func (s *service) EmptyCall(context.Context, *pb.Empty) (*pb.Empty, error) {
	return &pb.Empty{}, nil
}

func (s *service) UnaryCall(ctx context.Context, request *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	switch asked(ctx, "do") {
	case "wait":
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	case "break":
		return nil, errors.New("a bug")
	}
	if times, _ := strconv.Atoi(asked(ctx, "fail-times")); s.count(asked(ctx, "key")) <= times {
		return nil, status.Error(codes.Unavailable, "not now")
	}
	if err := failure(request.GetResponseStatus()); err != nil {
		return nil, err
	}
	return &pb.SimpleResponse{Payload: body(request.GetResponseSize())}, nil
}

// count tells how many calls there were with a key, this one included.
func (s *service) count(key string) int {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.calls[key]++
	return s.calls[key]
}

func (s *service) StreamingOutputCall(request *pb.StreamingOutputCallRequest, stream pb.TestService_StreamingOutputCallServer) error {
	for _, each := range request.GetResponseParameters() {
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: body(each.GetSize())}); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) StreamingInputCall(stream pb.TestService_StreamingInputCallServer) error {
	size := 0
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(request.GetPayload().GetBody())
	}
}

func (s *service) FullDuplexCall(stream pb.TestService_FullDuplexCallServer) error {
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if request.GetResponseStatus().GetMessage() == "die" {
			os.Exit(3)
		}
		if err := failure(request.GetResponseStatus()); err != nil {
			return err
		}
		for _, each := range request.GetResponseParameters() {
			if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: body(each.GetSize())}); err != nil {
				return err
			}
		}
	}
}
