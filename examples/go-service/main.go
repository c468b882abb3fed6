// The echo service on grpc-go: a plugin that a mesh runs, or a program that registers with one.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	echopb "meshtrio/goservice/gen/echopb"
	meshpb "meshtrio/goservice/gen/meshpb"
)

// For running calls at a stop; shorter than the 5 s that a mesh gives a plugin unless told.
const grace = 4 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "go-service:", err)
		os.Exit(1)
	}
}

func run() error {
	if socket := os.Getenv("PLUGIN_SOCKET"); socket != "" {
		return serve(socket, func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		})
	}
	service := flag.String("service", "", "the `name` to register, such as plugin.go")
	socket := flag.String("socket", "", "the `path` to serve on")
	mesh := flag.String("mesh", defaultMesh(), "the `path` of the mesh's socket")
	flag.Parse()
	if *service == "" || *socket == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	path, err := filepath.Abs(*socket)
	if err != nil {
		return err
	}
	return serve(path, func(ctx context.Context) error {
		request := &meshpb.RegisterRequest{Service: *service, Address: "unix:" + path}
		return stayRegistered(ctx, *mesh, request)
	})
}

func defaultMesh() string {
	if path := os.Getenv("MESH_SOCKET"); path != "" {
		return path
	}
	if base := os.Getenv("XDG_RUNTIME_DIR"); base != "" {
		return filepath.Join(base, "meshtrio", "mesh.sock")
	}
	return fmt.Sprintf("/tmp/meshtrio-%d/mesh.sock", os.Getuid())
}

// serve serves on a Unix socket until a signal comes or `meanwhile` returns, then drains. The
// context of `meanwhile` is done at the signal; its error is serve's.
func serve(path string, meanwhile func(context.Context) error) error {
	ctx, unhook := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer unhook()
	listener, err := listen(path)
	if err != nil {
		return err
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(tellUnary),
		grpc.StreamInterceptor(tellStream),
		grpc.WaitForHandlers(true), // at Stop, so that each can tell that it was cancelled
	)
	echopb.RegisterEchoServiceServer(server, echo{})
	standing := health.NewServer()
	standing.SetServingStatus(echopb.EchoService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, standing)
	reflection.Register(server)

	ended := make(chan error, 1)
	go func() {
		ended <- meanwhile(ctx)
		unhook() // a second signal ends the program at once
		standing.Shutdown()
		time.AfterFunc(grace, server.Stop)
		server.GracefulStop()
	}()
	// Returns once the server is drained.
	if err := server.Serve(listener); err != nil && err != grpc.ErrServerStopped {
		return err
	}
	return <-ended
}

// listen binds a path; a socket there that nobody listens on any more is replaced.
func listen(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
		} else {
			os.Remove(path)
		}
	}
	return net.Listen("unix", path)
}
