package main

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"time"

	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "meshtrio/goetcd/gen/echopb"
)

// outcome is a line of output.
type outcome struct {
	Code     string `json:"code"`
	Error    string `json:"error,omitempty"`
	Message  string `json:"message,omitempty"`
	Instance uint32 `json:"instance"`
	Pid      uint32 `json:"pid"`
	Address  string `json:"address"` // of the server
}

func call(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	o := addOptions(flags)
	target := flags.String("target", "etcd:///meshtrio/plugin.echo", "the `target` to call")
	authority := flags.String("authority", "", "the `authority` of calls, and the name in certificates")
	message := flags.String("message", "x", "the `text` to send")
	count := flags.Int("count", 0, "`number` of calls; 0 for no end")
	interval := flags.Duration("interval", 100*time.Millisecond, "time between calls")
	timeout := flags.Duration("timeout", 10*time.Second, "deadline of each call")
	wait := flags.Bool("wait-for-ready", true, "whether calls wait for a connection")
	flags.Parse(arguments)

	etcd, err := o.dialEtcd(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	builder, err := resolver.NewBuilder(etcd)
	if err != nil {
		return err
	}
	transport, err := o.peerCredentials()
	if err != nil {
		return err
	}
	dial := []grpc.DialOption{
		grpc.WithResolvers(builder),
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
	}
	if *authority != "" {
		dial = append(dial, grpc.WithAuthority(*authority))
	}
	channel, err := grpc.NewClient(*target, dial...)
	if err != nil {
		return err
	}
	defer channel.Close()

	stub, output := pb.NewEchoServiceClient(channel), json.NewEncoder(os.Stdout)
	for number := 0; *count == 0 || number < *count; number++ {
		if number > 0 {
			select {
			case <-time.After(*interval):
			case <-ctx.Done():
				return nil
			}
		}
		if err := output.Encode(callOnce(ctx, stub, *message, *timeout, *wait)); err != nil {
			return err
		}
	}
	return nil
}

func callOnce(
	ctx context.Context, stub pb.EchoServiceClient, message string, timeout time.Duration, wait bool,
) outcome {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var server peer.Peer
	request := &pb.EchoRequest{Message: message}
	reply, err := stub.Echo(ctx, request, grpc.Peer(&server), grpc.WaitForReady(wait))
	found := outcome{Code: status.Code(err).String()}
	if err != nil {
		found.Error = status.Convert(err).Message()
	} else {
		found.Message, found.Instance, found.Pid = reply.Message, reply.Instance, reply.Pid
	}
	if server.Addr != nil {
		found.Address = server.Addr.String()
	}
	return found
}
