package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats/opentelemetry"
	"google.golang.org/grpc/status"
)

const retries = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
	"retryableStatusCodes": ["UNAVAILABLE"]
}}]}`

// Nobody listens there.
const nowhere = "127.0.0.1:1"

// A caller makes the calls of tests/interop/metrics/cases.py, by their names there.
type caller struct {
	stub          pb.TestServiceClient
	unserved      pb.UnimplementedServiceClient
	nobody        pb.TestServiceClient
	nobodyRetried pb.TestServiceClient
	keys          int
}

func newCaller(socket string, options opentelemetry.Options) *caller {
	connect := func(target, config string) *grpc.ClientConn {
		conn, err := grpc.NewClient(
			target,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultServiceConfig(config),
			opentelemetry.DialOption(options),
		)
		check(err)
		return conn
	}
	conn := connect("unix:"+socket, retries)
	return &caller{
		stub:          pb.NewTestServiceClient(conn),
		unserved:      pb.NewUnimplementedServiceClient(conn),
		nobody:        pb.NewTestServiceClient(connect(nowhere, "{}")),
		nobodyRetried: pb.NewTestServiceClient(connect(nowhere, retries)),
	}
}

// call gives the status that a caller sees.
func (c *caller) call(name string) any {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return status.Code(c.perform(ctx, name)).String()
}

func (c *caller) perform(ctx context.Context, name string) error {
	var err error
	switch name {
	case "empty":
		_, err = c.stub.EmptyCall(ctx, &pb.Empty{})
	case "unary":
		_, err = c.stub.UnaryCall(ctx, sized(2000, 2000))
	case "bounds":
		_, err = c.stub.UnaryCall(ctx, sized(1015, 1018))
	case "gzip":
		request := sized(2000, 2000)
		request.ResponseCompressed = &pb.BoolValue{Value: true}
		_, err = c.stub.UnaryCall(ctx, request, grpc.UseCompressor(gzip.Name))
	case "not_found":
		_, err = c.stub.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: notFound})
	case "broken":
		_, err = c.stub.UnaryCall(with(ctx, "do", "break"), sized(2000, 2000))
	case "retried":
		_, err = c.stub.UnaryCall(c.failing(ctx, "2"), sized(2000, 2000))
	case "retried_in_vain":
		_, err = c.stub.UnaryCall(c.failing(ctx, "9"), sized(2000, 2000))
	case "deadline_unary":
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = c.stub.UnaryCall(with(ctx, "do", "wait"), sized(2000, 2000))
	case "unimplemented":
		_, err = c.stub.UnimplementedCall(ctx, &pb.Empty{})
	case "unknown":
		_, err = c.unserved.UnimplementedCall(ctx, &pb.Empty{})
	case "nobody":
		_, err = c.nobody.EmptyCall(ctx, &pb.Empty{})
	case "nobody_retried":
		_, err = c.nobodyRetried.EmptyCall(ctx, &pb.Empty{})
	case "nobody_deadline":
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_, err = c.nobody.EmptyCall(ctx, &pb.Empty{}, grpc.WaitForReady(true))
	default:
		err = c.stream(ctx, name)
	}
	return err
}

func (c *caller) stream(ctx context.Context, name string) error {
	switch name {
	case "requests":
		return c.requests(ctx)
	case "replies":
		stream, err := c.stub.StreamingOutputCall(ctx, exchange(0, 100, 3000, 20000))
		if err != nil {
			return err
		}
		return drain(stream.Recv)
	case "deadline_stream":
		timed, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		ctx = timed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.stub.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for _, sizes := range [][2]int32{{100, 3000}, {2000, 50}, {30000, 0}} {
		if err := stream.Send(exchange(sizes[0], sizes[1])); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	switch name {
	case "stream":
		err = stream.CloseSend()
	case "stream_fails":
		err = stream.Send(&pb.StreamingOutputCallRequest{ResponseStatus: notFound})
	case "peer_dies":
		err = stream.Send(&pb.StreamingOutputCallRequest{ResponseStatus: die})
	case "cancelled":
		cancel()
	}
	if err != nil {
		return err
	}
	return drain(stream.Recv)
}

func (c *caller) requests(ctx context.Context) error {
	stream, err := c.stub.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	for _, size := range []int32{100, 3000, 20000} {
		if err := stream.Send(&pb.StreamingInputCallRequest{Payload: body(size)}); err != nil {
			return err
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// -- what is sent ------------------------------------------------------------------------------

var (
	notFound = &pb.EchoStatus{Code: 5, Message: "no such thing"}
	die      = &pb.EchoStatus{Code: 13, Message: "die"}
)

func sized(request, reply int32) *pb.SimpleRequest {
	return &pb.SimpleRequest{ResponseSize: reply, Payload: body(request)}
}

func exchange(size int32, replies ...int32) *pb.StreamingOutputCallRequest {
	request := &pb.StreamingOutputCallRequest{Payload: body(size)}
	for _, each := range replies {
		parameters := &pb.ResponseParameters{Size: each}
		request.ResponseParameters = append(request.ResponseParameters, parameters)
	}
	return request
}

func with(ctx context.Context, pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// failing has the first attempts of a call fail.
func (c *caller) failing(ctx context.Context, times string) context.Context {
	c.keys++
	return with(ctx, "fail-times", times, "key", fmt.Sprint("go-", c.keys))
}

func drain[R any](receive func() (R, error)) error {
	for {
		if _, err := receive(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
