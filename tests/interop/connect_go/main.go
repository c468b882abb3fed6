// The peer of tests/interop/foreign.py on connect-go: it serves on PLUGIN_SOCKET, with `no-health`
// without a health service; with `client TARGET` it makes the calls that it reads from stdin.
package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"strings"

	"connectrpc.com/connect"
)

const (
	service     = "/peer.v1.Peer/"
	healthCheck = "/grpc.health.v1.Health/Check"
)

// message is a gRPC message that is not decoded.
type message struct {
	data []byte
}

// codec leaves messages as they are; it has protobuf's name so that the content type is gRPC's.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(value any) ([]byte, error) { return value.(*message).data, nil }

func (codec) Unmarshal(data []byte, value any) error {
	value.(*message).data = append([]byte(nil), data...)
	return nil
}

// protocols has HTTP/2 without TLS alone.
func protocols() *http.Protocols {
	chosen := new(http.Protocols)
	chosen.SetUnencryptedHTTP2(true)
	return chosen
}

// pairs returns metadata in the form in which results are printed.
func pairs(header http.Header) [][2]string {
	found := [][2]string{}
	for key, values := range header {
		for _, value := range values {
			if strings.HasSuffix(strings.ToLower(key), "-bin") {
				data, _ := connect.DecodeBinaryHeader(value)
				value = base64.StdEncoding.EncodeToString(data)
			}
			found = append(found, [2]string{strings.ToLower(key), value})
		}
	}
	return found
}

func main() {
	var err error
	if len(os.Args) == 3 && os.Args[1] == "client" {
		err = runClient(os.Args[2])
	} else {
		withHealth := len(os.Args) == 1 || os.Args[1] != "no-health"
		err = serve(os.Getenv("PLUGIN_SOCKET"), withHealth)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
