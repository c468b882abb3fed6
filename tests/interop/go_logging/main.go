// A server on grpc-go that sends back what it is sent, whatever the method: `logging SOCKET`.
//
// It writes a binary log as GRPC_BINARY_LOG_FILTER says, to a file in /tmp, and ends on SIGTERM.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/binarylog"
	"google.golang.org/grpc/metadata"
)

// Messages are bytes here, so that no code has to be generated.
type codec struct{}

func (codec) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }

func (codec) Unmarshal(data []byte, value any) error {
	*value.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (codec) Name() string { return "proto" }

func handle(_ any, stream grpc.ServerStream) error {
	stream.SetHeader(metadata.Pairs("early", "1"))
	stream.SetTrailer(metadata.Pairs("late-bin", "\x00\xff"))
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	sink, err := binarylog.NewTempFileSink()
	check(err)
	binarylog.SetSink(sink)
	listener, err := net.Listen("unix", os.Args[1])
	check(err)
	server := grpc.NewServer(grpc.ForceServerCodec(codec{}), grpc.UnknownServiceHandler(handle))
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		server.GracefulStop()
	}()
	check(server.Serve(listener))
	check(sink.Close())
}
