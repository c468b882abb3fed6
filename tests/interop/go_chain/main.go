// A plugin on grpc-go that is in the middle of a chain: it passes "plugin.b rest" on to plugin.b
// through the mesh's socket, and gives any other message back. Its calls are traced by grpc-go's own
// plugin for OpenTelemetry (gRFC A72), and sent where the mesh says.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats/opentelemetry"

	pb "meshtrio/gochain/gen/echopb"
)

// Each for running calls, and for what spans are left, at a stop; together less than the 5 s that a
// mesh gives a plugin unless told.
const grace = 2 * time.Second

type passingOn struct {
	pb.UnimplementedEchoServiceServer
	mesh pb.EchoServiceClient
}

func (p passingOn) Echo(ctx context.Context, request *pb.EchoRequest) (*pb.EchoReply, error) {
	first, rest, _ := strings.Cut(request.Message, " ")
	if !strings.HasPrefix(first, "plugin.") {
		return &pb.EchoReply{Message: request.Message}, nil
	}
	// Within the context of the call that is served, which has its span and its baggage.
	ctx = metadata.AppendToOutgoingContext(ctx, "x-mesh-target", first)
	return p.mesh.Echo(ctx, &pb.EchoRequest{Message: rest})
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "go-chain:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, unhook := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer unhook()
	tracing, flush, err := traced(ctx)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(
		"unix:"+os.Getenv("MESH_SOCKET"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		opentelemetry.DialOption(tracing),
	)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = serve(ctx, pb.NewEchoServiceClient(conn), opentelemetry.ServerOption(tracing))
	return errors.Join(err, flush())
}

// serve serves on the plugin's socket until ctx is done, then drains.
func serve(ctx context.Context, mesh pb.EchoServiceClient, options ...grpc.ServerOption) error {
	listener, err := net.Listen("unix", os.Getenv("PLUGIN_SOCKET"))
	if err != nil {
		return err
	}
	server := grpc.NewServer(options...)
	pb.RegisterEchoServiceServer(server, passingOn{mesh: mesh})
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() {
		<-ctx.Done()
		time.AfterFunc(grace, server.Stop)
		server.GracefulStop()
	}()
	return server.Serve(listener)
}
