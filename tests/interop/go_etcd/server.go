package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "meshtrio/goetcd/gen/echopb"
)

const grace = 4 * time.Second // for calls in progress at the end

type echo struct {
	pb.UnimplementedEchoServiceServer
	instance uint32
}

func (e echo) Echo(_ context.Context, request *pb.EchoRequest) (*pb.EchoReply, error) {
	return &pb.EchoReply{Message: request.Message, Instance: e.instance, Pid: uint32(os.Getpid())}, nil
}

func serve(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	o := addOptions(flags)
	target := flags.String("target", "meshtrio/plugin.echo", "the `target` to register under")
	suffix := flags.String("suffix", "", "the rest of the `key`; by default the address")
	listen := flags.String("listen", "127.0.0.1:0", "the `address` to serve on, and to register")
	metadata := flags.String("metadata", "", "metadata of the endpoint, as `JSON`")
	instance := flags.Uint("instance", 0, "the `number` in replies")
	ttl := flags.Int64("ttl", 10, "`seconds` of the lease")
	flags.Parse(arguments)

	transport, err := o.peerCredentials()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	endpoint := endpoints.Endpoint{Addr: listener.Addr().String()}
	if *metadata != "" {
		if err := json.Unmarshal([]byte(*metadata), &endpoint.Metadata); err != nil {
			return err
		}
	}
	key := *target + "/" + *suffix
	if *suffix == "" {
		key += endpoint.Addr
	}
	server := grpc.NewServer(grpc.Creds(transport))
	pb.RegisterEchoServiceServer(server, echo{instance: uint32(*instance)})
	healthpb.RegisterHealthServer(server, health.NewServer())
	ended := make(chan error, 1)
	go func() {
		ended <- o.stayRegistered(ctx, *target, key, endpoint, *ttl)
		time.AfterFunc(grace, server.Stop)
		server.GracefulStop()
	}()
	if err := server.Serve(listener); err != nil && err != grpc.ErrServerStopped {
		return err
	}
	return <-ended
}

// stayRegistered registers an endpoint until the context is done, and then removes it.
func (o *options) stayRegistered(
	ctx context.Context, target, key string, endpoint endpoints.Endpoint, ttl int64,
) error {
	etcd, err := o.dialEtcd(context.Background())
	if err != nil {
		return err
	}
	defer etcd.Close()
	manager, err := endpoints.NewManager(etcd, target)
	if err != nil {
		return err
	}
	lease, err := etcd.Grant(ctx, ttl)
	if err != nil {
		return err
	}
	if err := manager.AddEndpoint(ctx, key, endpoint, clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	alive, err := etcd.KeepAlive(ctx, lease.ID)
	if err != nil {
		return err
	}
	fmt.Println("registered", key, endpoint.Addr)
	for range alive { // until the context is done, or the lease is lost
	}
	if ctx.Err() == nil {
		return errors.New("the lease was lost")
	}
	ending, cancel := context.WithTimeout(context.Background(), etcdTimeout)
	defer cancel()
	if err := manager.DeleteEndpoint(ending, key); err != nil {
		return err
	}
	fmt.Println("removed", key)
	_, err = etcd.Revoke(ending, lease.ID)
	return err
}
