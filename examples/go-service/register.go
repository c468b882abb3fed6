package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "meshtrio/goservice/gen/meshpb"
)

const (
	firstPause   = 50 * time.Millisecond
	longestPause = time.Second
)

// stayRegistered keeps an endpoint known to the mesh, through restarts of the mesh, until ctx is
// done. Returns the errors that another try would not mend.
func stayRegistered(ctx context.Context, mesh string, request *pb.RegisterRequest) error {
	pause := firstPause
	for {
		registered, err := register(ctx, mesh, request)
		if ctx.Err() != nil {
			return nil
		}
		if isFinal(err) {
			return err
		}
		if registered {
			pause = firstPause
		}
		if pause == firstPause {
			fmt.Fprintf(os.Stderr, "not registered, trying again: %v\n", err)
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		case <-ctx.Done():
			return nil
		}
	}
}

// register stays for as long as the registration does. The connection is a new one each time, since
// one that failed would wait on a backoff of its own.
func register(ctx context.Context, mesh string, request *pb.RegisterRequest) (registered bool, err error) {
	conn, err := grpc.NewClient("unix:"+mesh, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stream, err := pb.NewRegistryClient(conn).Register(ctx, request)
	if err != nil {
		return false, err
	}
	reply, err := stream.Recv()
	if err != nil {
		return false, err
	}
	fmt.Println("registered as", reply.EndpointId)
	for err == nil {
		_, err = stream.Recv()
	}
	return true, err
}

func isFinal(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		return true
	case codes.Aborted: // another program registered the same address: it is not for us to fight
		return true
	}
	return false
}
