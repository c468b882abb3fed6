// Peers on grpc-go and etcd's own naming packages, which know nothing of meshtrio.
//
//	client  calls what etcd's resolver finds, again and again, and writes each reply as JSON
//	server  serves EchoService, and registers itself with etcd's manager of endpoints
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

const etcdTimeout = 10 * time.Second

// options are the flags that both programs have.
type options struct {
	etcd, user, password      string
	ca, certificate, key      string
	peerCA, peerCert, peerKey string
}

func addOptions(flags *flag.FlagSet) *options {
	o := &options{}
	flags.StringVar(&o.etcd, "etcd", "http://127.0.0.1:2379", "`URLs` of etcd, by commas")
	flags.StringVar(&o.user, "user", "", "`name` of a user of etcd")
	flags.StringVar(&o.password, "password", "", "the user's password")
	flags.StringVar(&o.ca, "ca", "", "`file` of the authority of etcd's certificates")
	flags.StringVar(&o.certificate, "certificate", "", "`file` of the certificate for etcd")
	flags.StringVar(&o.key, "key", "", "`file` of its key")
	flags.StringVar(&o.peerCA, "peer-ca", "", "`file` of the authority of the peers; plaintext without")
	flags.StringVar(&o.peerCert, "peer-certificate", "", "`file` of the certificate for the peers")
	flags.StringVar(&o.peerKey, "peer-key", "", "`file` of its key")
	return o
}

func (o *options) dialEtcd(ctx context.Context) (*clientv3.Client, error) {
	config := clientv3.Config{
		Endpoints:   strings.Split(o.etcd, ","),
		DialTimeout: etcdTimeout,
		Username:    o.user,
		Password:    o.password,
		Context:     ctx,
	}
	if o.ca != "" {
		var err error
		if config.TLS, err = tlsConfig(o.ca, o.certificate, o.key); err != nil {
			return nil, err
		}
	}
	return clientv3.New(config)
}

func (o *options) peerCredentials() (credentials.TransportCredentials, error) {
	if o.peerCA == "" {
		return insecure.NewCredentials(), nil
	}
	config, err := tlsConfig(o.peerCA, o.peerCert, o.peerKey)
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(config), nil
}

// tlsConfig returns a configuration for either side; a server requires a certificate of clients.
func tlsConfig(ca, certificate, key string) (*tls.Config, error) {
	text, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	config := &tls.Config{RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func main() {
	programs := map[string]func(context.Context, []string) error{"client": call, "server": serve}
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: grpc-go-etcd client|server FLAGS")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := programs[os.Args[1]](ctx, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
