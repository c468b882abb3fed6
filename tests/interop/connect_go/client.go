package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
)

// order is a call to make: a line of stdin.
type order struct {
	ID       int         `json:"id"`
	Method   string      `json:"method"`
	Messages [][]byte    `json:"messages"`
	Metadata [][2]string `json:"metadata"`
	Timeout  float64     `json:"timeout"`
}

// result is how a call ended: a line of stdout.
type result struct {
	ID       int         `json:"id"`
	Code     int         `json:"code"`
	Message  string      `json:"message"`
	Replies  [][]byte    `json:"replies"`
	Initial  [][2]string `json:"initial"`
	Trailing [][2]string `json:"trailing"`
}

func runClient(target string) error {
	transport := &http.Transport{Protocols: protocols()}
	base := "http://" + target
	if path, isUnix := strings.CutPrefix(target, "unix:"); isUnix {
		base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	clients := map[string]*connect.Client[message, message]{}
	for _, method := range []string{"Unary", "ServerStream", "ClientStream", "Bidi"} {
		clients[method] = connect.NewClient[message, message](
			&http.Client{Transport: transport}, base+service+method,
			connect.WithGRPC(), connect.WithCodec(codec{}))
	}

	var printing sync.Mutex
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var read order
		if err := json.Unmarshal(line, &read); err != nil {
			return err
		}
		go func() {
			encoded, _ := json.Marshal(call(clients[read.Method], read))
			printing.Lock()
			defer printing.Unlock()
			os.Stdout.Write(append(encoded, '\n'))
		}()
	}
}

func call(client *connect.Client[message, message], made order) result {
	ctx := context.Background()
	if made.Timeout > 0 {
		limit := time.Duration(made.Timeout * float64(time.Second))
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = limited
	}
	done := result{ID: made.ID, Replies: [][]byte{}}
	var err error
	switch made.Method {
	case "Unary":
		err = done.unary(ctx, client, made)
	case "ServerStream":
		err = done.serverStream(ctx, client, made)
	case "ClientStream":
		err = done.clientStream(ctx, client, made)
	default:
		err = done.bidi(ctx, client, made)
	}
	if err != nil {
		done.Code, done.Message = int(connect.CodeUnknown), err.Error()
		var failure *connect.Error
		if errors.As(err, &failure) {
			done.Code, done.Message = int(failure.Code()), failure.Message()
			done.Trailing = pairs(failure.Meta())
		}
	}
	return done
}

func (done *result) unary(
	ctx context.Context, client *connect.Client[message, message], made order,
) error {
	request := connect.NewRequest(&message{made.Messages[0]})
	made.addTo(request.Header())
	response, err := client.CallUnary(ctx, request)
	if err == nil {
		done.take(response)
	}
	return err
}

func (done *result) clientStream(
	ctx context.Context, client *connect.Client[message, message], made order,
) error {
	stream := client.CallClientStream(ctx)
	made.addTo(stream.RequestHeader())
	for _, each := range made.Messages {
		if err := stream.Send(&message{each}); err != nil {
			break // CloseAndReceive has the status.
		}
	}
	response, err := stream.CloseAndReceive()
	if err == nil {
		done.take(response)
	}
	return err
}

func (done *result) serverStream(
	ctx context.Context, client *connect.Client[message, message], made order,
) error {
	request := connect.NewRequest(&message{made.Messages[0]})
	made.addTo(request.Header())
	stream, err := client.CallServerStream(ctx, request)
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		done.add(stream.Msg())
	}
	done.Initial, done.Trailing = pairs(stream.ResponseHeader()), pairs(stream.ResponseTrailer())
	return stream.Err()
}

func (done *result) bidi(
	ctx context.Context, client *connect.Client[message, message], made order,
) error {
	stream := client.CallBidiStream(ctx)
	defer stream.CloseResponse()
	made.addTo(stream.RequestHeader())
	for _, each := range made.Messages {
		if err := stream.Send(&message{each}); err != nil {
			break // Receive has the status.
		}
	}
	stream.CloseRequest()
	for {
		received, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		done.add(received)
	}
	done.Initial, done.Trailing = pairs(stream.ResponseHeader()), pairs(stream.ResponseTrailer())
	return nil
}

func (done *result) take(response *connect.Response[message]) {
	done.add(response.Msg)
	done.Initial, done.Trailing = pairs(response.Header()), pairs(response.Trailer())
}

// add appends a reply; an empty one has not been through the codec, and would become null in JSON.
func (done *result) add(reply *message) {
	done.Replies = append(done.Replies, append([]byte{}, reply.data...))
}

func (made order) addTo(header http.Header) {
	for _, pair := range made.Metadata {
		key, value := pair[0], pair[1]
		if strings.HasSuffix(key, "-bin") {
			data, _ := base64.StdEncoding.DecodeString(value)
			value = connect.EncodeBinaryHeader(data)
		}
		header.Add(key, value)
	}
}
