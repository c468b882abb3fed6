// The peer of the RPC benchmark in Go: echo.v1 on grpc-go, server and client.
//
//	bench serve SOCKET
//	bench CASE SOCKET SECONDS WIDTH SIZE   (a name in cases; WIDTH is the rate of paced calls)
//
// A case prints what it measured as JSON: operations, seconds, CPU seconds of this process. With
// BENCHMARK_TLS, a folder with the files, client and server speak TLS.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	echo "meshtrio/bench/echo"
)

type server struct {
	echo.UnimplementedEchoServiceServer
}

func (server) Echo(_ context.Context, request *echo.EchoRequest) (*echo.EchoReply, error) {
	return &echo.EchoReply{Message: request.Message}, nil
}

func (server) Repeat(request *echo.RepeatRequest, stream grpc.ServerStreamingServer[echo.EchoReply]) error {
	for range request.Count {
		if err := stream.Send(&echo.EchoReply{Message: request.Message}); err != nil {
			return err
		}
	}
	return nil
}

func (server) Join(stream grpc.ClientStreamingServer[echo.EchoRequest, echo.EchoReply]) error {
	count := uint32(0)
	for {
		_, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&echo.EchoReply{Instance: count})
		}
		if err != nil {
			return err
		}
		count++
	}
}

func (server) Chat(stream grpc.BidiStreamingServer[echo.EchoRequest, echo.EchoReply]) error {
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&echo.EchoReply{Message: request.Message}); err != nil {
			return err
		}
	}
}

func serve(socket string) {
	listener := must(net.Listen("unix", socket))
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(math.MaxInt32)}
	if files := os.Getenv("BENCHMARK_TLS"); files != "" {
		pair := must(credentials.NewServerTLSFromFile(files+"/server.pem", files+"/server.key"))
		options = append(options, grpc.Creds(pair))
	}
	grpcServer := grpc.NewServer(options...)
	echo.RegisterEchoServiceServer(grpcServer, server{})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		grpcServer.Stop()
	}()
	check(grpcServer.Serve(listener))
}

func dial(socket string) (*grpc.ClientConn, echo.EchoServiceClient) {
	security := insecure.NewCredentials()
	if files := os.Getenv("BENCHMARK_TLS"); files != "" {
		security = must(credentials.NewClientTLSFromFile(files+"/authority.pem", "localhost"))
	}
	connection := must(grpc.NewClient(
		"unix:"+socket,
		grpc.WithTransportCredentials(security),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
	))
	return connection, echo.NewEchoServiceClient(connection)
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2])
		return
	}
	name, socket := os.Args[1], os.Args[2]
	seconds := must(strconv.ParseFloat(os.Args[3], 64))
	width, size := must(strconv.Atoi(os.Args[4])), must(strconv.Atoi(os.Args[5]))
	request := &echo.EchoRequest{Message: strings.Repeat("x", size)}
	run, found := cases[name]
	if !found {
		log.Fatalf("no case %s", name)
	}
	connection, stub := dial(socket)
	run(options{socket, stub, seconds, width, request})
	check(connection.Close())
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
