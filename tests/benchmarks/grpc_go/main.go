// The peer of the RPC benchmark in Go: echo.v1 on grpc-go, server and client.
//
//	bench serve SOCKET
//	bench CASE SOCKET SECONDS WIDTH SIZE   (unary, stream, download, connect)
//
// A case prints what it measured as JSON: operations, seconds, CPU seconds of this process.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	echo "meshtrio/bench/echo"
)

const streamReplies = 64

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
	grpcServer := grpc.NewServer(grpc.MaxRecvMsgSize(math.MaxInt32))
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
	connection := must(grpc.NewClient(
		"unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
	))
	return connection, echo.NewEchoServiceClient(connection)
}

// A clock runs a case for its time and counts what it did.
type clock struct {
	count      atomic.Int64
	began, end time.Time
	cpu        float64
}

func start(seconds float64) *clock {
	if os.Getenv("BENCHMARK_BARRIER") != "" {
		fmt.Println("ready")
		bufio.NewReader(os.Stdin).ReadString('\n')
	}
	now := time.Now()
	return &clock{began: now, end: now.Add(time.Duration(seconds * 1e9)), cpu: cpuSeconds()}
}

func (c *clock) going() bool { return time.Now().Before(c.end) }

func (c *clock) report() {
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"count":   c.count.Load(),
		"seconds": time.Since(c.began).Seconds(),
		"cpu":     cpuSeconds() - c.cpu,
	}))
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func unary(socket string, seconds float64, width int, request *echo.EchoRequest) {
	connection, stub := dial(socket)
	defer connection.Close()
	for range 20 {
		must(stub.Echo(context.Background(), request))
	}
	c := start(seconds)
	var loops sync.WaitGroup
	for range width {
		loops.Go(func() {
			for c.going() {
				must(stub.Echo(context.Background(), request))
				c.count.Add(1)
			}
		})
	}
	loops.Wait()
	c.report()
}

// As in the other peers: messages of one stream, with 100 on their way at a time.
func stream(socket string, seconds float64, request *echo.EchoRequest) {
	connection, stub := dial(socket)
	defer connection.Close()
	call := must(stub.Chat(context.Background()))
	for range 100 {
		check(call.Send(request))
	}
	c := start(seconds)
	for c.going() {
		for range 50 {
			must(call.Recv())
			c.count.Add(1)
		}
		for range 50 {
			check(call.Send(request))
		}
	}
	c.report()
}

func download(socket string, seconds float64, message string) {
	connection, stub := dial(socket)
	defer connection.Close()
	c := start(seconds)
	for c.going() {
		request := &echo.RepeatRequest{Message: message, Count: streamReplies}
		replies := must(stub.Repeat(context.Background(), request))
		for {
			_, err := replies.Recv()
			if err == io.EOF {
				break
			}
			check(err)
			c.count.Add(1)
		}
	}
	c.report()
}

func connect(socket string, seconds float64, request *echo.EchoRequest) {
	c := start(seconds)
	for c.going() {
		connection, stub := dial(socket)
		must(stub.Echo(context.Background(), request))
		check(connection.Close())
		c.count.Add(1)
	}
	c.report()
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
	switch name {
	case "unary":
		unary(socket, seconds, width, request)
	case "stream":
		stream(socket, seconds, request)
	case "download":
		download(socket, seconds, request.Message)
	case "connect":
		connect(socket, seconds, request)
	default:
		log.Fatalf("no case %s", name)
	}
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
