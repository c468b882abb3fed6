// A server on grpc-go that fails as its caller's metadata says: `flaky SOCKET`.
//
// Whatever the method: the first `fail-times` calls with one `key` fail with UNAVAILABLE, and with
// `pushback`, if there is one, as grpc-retry-pushback-ms. Then the reply is a message whose first
// field is what the call said of its previous attempts.
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Messages are bytes here, so that no code has to be generated.
type codec struct{}

func (codec) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }

func (codec) Unmarshal(data []byte, value any) error {
	*value.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (codec) Name() string { return "proto" }

var (
	lock  sync.Mutex
	calls = map[string]int{}
)

func handle(_ any, stream grpc.ServerStream) error {
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	said := func(key string) string { return strings.Join(md.Get(key), ",") }
	lock.Lock()
	calls[said("key")]++
	count := calls[said("key")]
	lock.Unlock()
	times, _ := strconv.Atoi(said("fail-times"))
	if count <= times {
		if pushback := said("pushback"); pushback != "" {
			stream.SetTrailer(metadata.Pairs("grpc-retry-pushback-ms", pushback))
		}
		return status.Error(codes.Unavailable, "not now")
	}
	previous := said("grpc-previous-rpc-attempts")
	reply := append([]byte{0x0a, byte(len(previous))}, previous...)
	return stream.SendMsg(&reply)
}

func main() {
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(codec{}), grpc.UnknownServiceHandler(handle))
	if err := server.Serve(listener); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
