package main

import (
	"context"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	experimental "google.golang.org/grpc/experimental/opentelemetry"
	"google.golang.org/grpc/stats/opentelemetry"
)

// traced gives how calls are traced, and what sends the spans that are left at the end. Where they
// go, which calls are recorded and the service's name are in OTEL_* variables: the mesh sets them,
// and the exporter, the sampler and the resource read them by themselves.
func traced(ctx context.Context) (opentelemetry.Options, func() error, error) {
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return opentelemetry.Options{}, nil, err
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter))
	w3c := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	options := opentelemetry.Options{
		TraceOptions: experimental.TraceOptions{TracerProvider: provider, TextMapPropagator: w3c},
	}
	flush := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		return provider.Shutdown(ctx)
	}
	return options, flush, nil
}
