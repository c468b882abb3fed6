package main

import (
	"context"
	"strings"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// A point is one series: of a counter it has a sum only.
type point struct {
	Labels map[string]string `json:"labels"`
	Counts []uint64          `json:"counts"`
	Sum    float64           `json:"sum"`
}

type family struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Kind   string    `json:"kind"`
	Bounds []float64 `json:"bounds"`
	Points []point   `json:"points"`
}

// exports read one meter provider in two ways.
type exports struct {
	reader   *metric.ManualReader
	registry *prom.Registry
}

func newExports() (*exports, *metric.MeterProvider) {
	reader, registry := metric.NewManualReader(), prom.NewRegistry()
	exporter, err := prometheus.New(prometheus.WithRegisterer(registry))
	check(err)
	provider := metric.NewMeterProvider(metric.WithReader(reader), metric.WithReader(exporter))
	return &exports{reader, registry}, provider
}

// all gives the data of OpenTelemetry as families, and the text that its exporter for Prometheus makes.
func (e *exports) all() any {
	var data metricdata.ResourceMetrics
	check(e.reader.Collect(context.Background(), &data))
	families := []family{}
	for _, scope := range data.ScopeMetrics {
		for _, each := range scope.Metrics {
			families = append(families, familyOf(each))
		}
	}
	return map[string]any{"families": families, "prometheus": e.text()}
}

func (e *exports) text() string {
	var text strings.Builder
	families, err := e.registry.Gather()
	check(err)
	for _, each := range families {
		_, err := expfmt.MetricFamilyToText(&text, each)
		check(err)
	}
	return text.String()
}

func familyOf(data metricdata.Metrics) family {
	found := family{Name: data.Name, Unit: data.Unit, Bounds: []float64{}, Points: []point{}}
	switch values := data.Data.(type) {
	case metricdata.Sum[int64]:
		found.Kind = "counter"
		if !values.IsMonotonic {
			found.Kind = "gauge"
		}
		for _, each := range values.DataPoints {
			one := point{labelsOf(each.Attributes), []uint64{}, float64(each.Value)}
			found.Points = append(found.Points, one)
		}
	case metricdata.Histogram[int64]:
		fill(&found, values)
	case metricdata.Histogram[float64]:
		fill(&found, values)
	default:
		found.Kind = "unknown"
	}
	return found
}

func fill[N int64 | float64](found *family, values metricdata.Histogram[N]) {
	found.Kind = "histogram"
	for _, each := range values.DataPoints {
		one := point{labelsOf(each.Attributes), each.BucketCounts, float64(each.Sum)}
		found.Points = append(found.Points, one)
		found.Bounds = each.Bounds
	}
}

func labelsOf(set attribute.Set) map[string]string {
	labels := map[string]string{}
	for _, each := range set.ToSlice() {
		labels[string(each.Key)] = each.Value.Emit()
	}
	return labels
}
