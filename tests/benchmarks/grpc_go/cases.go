package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	echo "meshtrio/bench/echo"
)

// As in the other peers.
const (
	hugeReplies  = 64
	streamLength = 1000
	warmUpCalls  = 20
	deadline     = 10 * time.Second
)

type options struct {
	socket  string
	stub    echo.EchoServiceClient
	seconds float64
	width   int
	request *echo.EchoRequest
}

var cases = map[string]func(options){
	"unary":         unary,
	"deadline":      unaryWithDeadline,
	"metadata":      unaryWithMetadata,
	"paced":         paced,
	"stream":        stream,
	"generator":     generatorStream,
	"client-stream": clientStream,
	"server-stream": serverStream,
	"download":      download,
	"connect":       connect,
}

func unary(o options) {
	inFlight(o, func() { must(o.stub.Echo(context.Background(), o.request)) })
}

func unaryWithDeadline(o options) {
	inFlight(o, func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		must(o.stub.Echo(ctx, o.request))
	})
}

func unaryWithMetadata(o options) {
	features := make([]string, 16)
	for index := range features {
		features[index] = fmt.Sprintf("feature-%d", index)
	}
	number := 0
	pairs := []string{
		"authorization", "Bearer " + strings.Repeat("t", 1200),
		"x-tenant", "tenant-" + strings.Repeat("0", 40),
		"x-client", "benchmark/1.0 " + strings.Repeat("c", 100),
		"x-baggage", "user=" + strings.Repeat("u", 300),
		"x-region", "eu-central-1",
		"x-features", strings.Join(features, ","),
		"x-request-id", "",
	}
	inFlight(o, func() {
		number++
		pairs[len(pairs)-1] = fmt.Sprintf("%032x", number)
		ctx := metadata.AppendToOutgoingContext(context.Background(), pairs...)
		must(o.stub.Echo(ctx, o.request))
	})
}

func inFlight(o options, call func()) {
	for range warmUpCalls {
		call()
	}
	c := start(o.seconds)
	var loops sync.WaitGroup
	for range o.width {
		loops.Go(func() {
			for c.going() {
				call()
				c.count.Add(1)
			}
		})
	}
	loops.Wait()
	c.report()
}

// Latencies count from when a call was due.
func paced(o options) {
	for range warmUpCalls {
		must(o.stub.Echo(context.Background(), o.request))
	}
	latencies := make([]time.Duration, max(2, int(float64(o.width)*o.seconds+0.5)))
	c := start(o.seconds)
	pacer := startPacer(o.width)
	var calls sync.WaitGroup
	for started := 0; started < len(latencies); {
		for _, due := range pacer.due() {
			if started == len(latencies) {
				break
			}
			latency := &latencies[started]
			started++
			calls.Go(func() {
				must(o.stub.Echo(context.Background(), o.request))
				*latency = time.Since(due)
				c.count.Add(1)
			})
		}
	}
	calls.Wait()
	c.reportLatencies(latencies)
}

// Messages of one stream, with 100 on their way at a time.
func stream(o options) {
	call := must(o.stub.Chat(context.Background()))
	for range 100 {
		check(call.Send(o.request))
	}
	c := start(o.seconds)
	for c.going() {
		for range 50 {
			must(call.Recv())
			c.count.Add(1)
		}
		for range 50 {
			check(call.Send(o.request))
		}
	}
	c.report()
}

// A goroutine sends; the peers in Python have a generator.
func generatorStream(o options) {
	run := func(length int) int {
		call := must(o.stub.Chat(context.Background()))
		go func() {
			for range length {
				check(call.Send(o.request))
			}
			check(call.CloseSend())
		}()
		return drain(call)
	}
	run(warmUpCalls)
	c := start(o.seconds)
	for c.going() {
		c.count.Add(int64(expect(run(streamLength))))
	}
	c.report()
}

func clientStream(o options) {
	run := func(length int) int {
		call := must(o.stub.Join(context.Background()))
		for range length {
			check(call.Send(o.request))
		}
		return int(must(call.CloseAndRecv()).Instance)
	}
	run(warmUpCalls)
	c := start(o.seconds)
	for c.going() {
		c.count.Add(int64(expect(run(streamLength))))
	}
	c.report()
}

func serverStream(o options) {
	must(o.stub.Echo(context.Background(), o.request))
	request := &echo.RepeatRequest{Message: o.request.Message, Count: streamLength}
	c := start(o.seconds)
	for c.going() {
		c.count.Add(int64(expect(drain(must(o.stub.Repeat(context.Background(), request))))))
	}
	c.report()
}

func download(o options) {
	request := &echo.RepeatRequest{Message: o.request.Message, Count: hugeReplies}
	c := start(o.seconds)
	for c.going() {
		c.count.Add(int64(drain(must(o.stub.Repeat(context.Background(), request)))))
	}
	c.report()
}

func connect(o options) {
	connectAndCall := func() {
		connection, stub := dial(o.socket)
		must(stub.Echo(context.Background(), o.request))
		check(connection.Close())
	}
	connectAndCall()
	c := start(o.seconds)
	for c.going() {
		connectAndCall()
		c.count.Add(1)
	}
	c.report()
}

// Receives all replies and counts them.
func drain(replies interface {
	Recv() (*echo.EchoReply, error)
}) (count int) {
	for {
		_, err := replies.Recv()
		if err == io.EOF {
			return count
		}
		check(err)
		count++
	}
}

func expect(count int) int {
	if count != streamLength {
		log.Fatalf("%d messages of %d", count, streamLength)
	}
	return count
}
