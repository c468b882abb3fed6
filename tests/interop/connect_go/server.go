package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
)

// A call that takes so long is announced on stderr.
const held = 300 * time.Millisecond

// serve serves until SIGTERM; without health, a health check is answered with net/http's 404.
func serve(socket string, withHealth bool) error {
	mux := http.NewServeMux()
	option := connect.WithCodec(codec{})
	mux.Handle(service+"Unary", connect.NewUnaryHandler(service+"Unary", unary, option))
	mux.Handle(service+"ServerStream",
		connect.NewServerStreamHandler(service+"ServerStream", serverStream, option))
	mux.Handle(service+"ClientStream",
		connect.NewClientStreamHandler(service+"ClientStream", clientStream, option))
	mux.Handle(service+"Bidi", connect.NewBidiStreamHandler(service+"Bidi", bidi, option))
	if withHealth {
		mux.Handle(healthCheck, connect.NewUnaryHandler(healthCheck, healthy, option))
	}
	server := &http.Server{Handler: mux, Protocols: protocols()}

	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	stop, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	drained := make(chan error, 1)
	go func() {
		<-stop.Done()
		drained <- server.Shutdown(context.Background())
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-drained
}

// healthy returns a HealthCheckResponse with the status SERVING.
func healthy(context.Context, *connect.Request[message]) (*connect.Response[message], error) {
	return connect.NewResponse(&message{[]byte{0x08, 0x01}}), nil
}

func unary(ctx context.Context, request *connect.Request[message]) (
	*connect.Response[message], error,
) {
	if err := outcome(ctx, request.Header()); err != nil {
		return nil, err
	}
	return response(request.Header(), request.Msg), nil
}

func clientStream(ctx context.Context, stream *connect.ClientStream[message]) (
	*connect.Response[message], error,
) {
	var joined bytes.Buffer
	for stream.Receive() {
		joined.Write(stream.Msg().data)
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	if err := outcome(ctx, stream.RequestHeader()); err != nil {
		return nil, err
	}
	return response(stream.RequestHeader(), &message{joined.Bytes()}), nil
}

func serverStream(
	ctx context.Context, request *connect.Request[message], stream *connect.ServerStream[message],
) error {
	echo(request.Header(), "x-initial-size", stream.ResponseHeader())
	if err := outcome(ctx, request.Header()); err != nil {
		return err
	}
	for _, each := range request.Msg.data {
		if err := stream.Send(&message{[]byte{each}}); err != nil {
			return err
		}
	}
	echo(request.Header(), "x-trailing-size", stream.ResponseTrailer())
	return nil
}

func bidi(ctx context.Context, stream *connect.BidiStream[message, message]) error {
	echo(stream.RequestHeader(), "x-initial-size", stream.ResponseHeader())
	for {
		received, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if err := stream.Send(received); err != nil {
			return err
		}
	}
	if err := outcome(ctx, stream.RequestHeader()); err != nil {
		return err
	}
	echo(stream.RequestHeader(), "x-trailing-size", stream.ResponseTrailer())
	return nil
}

func response(asked http.Header, reply *message) *connect.Response[message] {
	made := connect.NewResponse(reply)
	echo(asked, "x-initial-size", made.Header())
	echo(asked, "x-trailing-size", made.Trailer())
	return made
}

// echo adds the metadata that the caller asks for.
func echo(asked http.Header, sizeKey string, target http.Header) {
	for key, values := range asked {
		if strings.HasPrefix(key, "X-Echo") {
			target[key] = append(target[key], values...)
		}
	}
	if raw := asked.Get("x-raw-bin"); raw != "" {
		value, _ := connect.DecodeBinaryHeader(raw)
		target.Set("x-raw", string(value))
	}
	if size, _ := strconv.Atoi(asked.Get(sizeKey)); size > 0 {
		target.Set("x-large", strings.Repeat("a", size))
	}
}

// outcome waits as the caller asks, and returns the error to end with, or nil.
func outcome(ctx context.Context, asked http.Header) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(delay(ctx, asked)):
	}
	code, _ := strconv.Atoi(asked.Get("x-status"))
	if code == 0 {
		return nil
	}
	text, _ := connect.DecodeBinaryHeader(asked.Get("x-message-bin"))
	failure := connect.NewError(connect.Code(code), errors.New(string(text)))
	echo(asked, "x-trailing-size", failure.Meta())
	return failure
}

func delay(ctx context.Context, asked http.Header) time.Duration {
	sleep, _ := strconv.Atoi(asked.Get("x-sleep-ms"))
	wait := time.Duration(sleep) * time.Millisecond
	if early := asked.Get("x-before-deadline-ms"); early != "" {
		millis, _ := strconv.Atoi(early)
		deadline, _ := ctx.Deadline()
		wait = time.Until(deadline) - time.Duration(millis)*time.Millisecond
	}
	if wait >= held {
		os.Stderr.WriteString("holding\n")
	}
	return wait
}
