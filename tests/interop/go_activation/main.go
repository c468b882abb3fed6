// A plugin on grpc-go that serves on the socket that it inherits, by coreos' activation package.
//
// It knows nothing of meshtrio, not even PLUGIN_SOCKET. The reply to any method has one field, the
// pid of the process.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func handle(_ any, stream grpc.ServerStream) error {
	request := &healthpb.HealthCheckRequest{}
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	// The same fields as a message of ours: a string with the number 1.
	return stream.SendMsg(&healthpb.HealthCheckRequest{Service: strconv.Itoa(os.Getpid())})
}

func main() {
	named, err := activation.ListenersWithNames()
	if err != nil {
		fail(err)
	}
	listeners := named[os.Args[1]]
	if len(listeners) != 1 || len(named) != 1 {
		fail(fmt.Errorf("inherited %v", named))
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(handle))
	healthpb.RegisterHealthServer(server, health.NewServer())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	if err := server.Serve(listeners[0]); err != nil {
		fail(err)
	}
}
