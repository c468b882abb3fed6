// grpc-go with its metrics of gRFC A66, as a server or a client: `metrics serve|call SOCKET`.
//
// It takes commands on its standard input, one a line, and answers each by one line of JSON:
// "metrics" with all there is by now (see export.go), a client's other lines are names of calls that
// it makes (see client.go). It ends with its input.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/grpc/stats/opentelemetry"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// options have grpc-go measure what it measures by default.
func options(provider *metric.MeterProvider) opentelemetry.Options {
	return opentelemetry.Options{
		MetricsOptions: opentelemetry.MetricsOptions{MeterProvider: provider},
	}
}

func main() {
	role, socket := os.Args[1], os.Args[2]
	exports, provider := newExports()
	perform := func(name string) any { return "a server makes no calls" }
	if role == "serve" {
		serve(socket, options(provider))
	} else {
		perform = newCaller(socket, options(provider)).call
	}
	answers := json.NewEncoder(os.Stdout)
	check(answers.Encode("ready"))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if lines.Text() == "metrics" {
			check(answers.Encode(exports.all()))
		} else {
			check(answers.Encode(perform(lines.Text())))
		}
	}
}
