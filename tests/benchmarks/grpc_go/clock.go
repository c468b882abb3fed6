package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A clock runs a case for its time and counts what it did.
type clock struct {
	count      atomic.Int64
	began, end time.Time
	cpu        float64
}

func start(seconds float64) *clock {
	if os.Getenv("BENCHMARK_BARRIER") != "" {
		fmt.Println("ready")
		bufio.NewReader(os.Stdin).ReadString('\n')
	}
	now := time.Now()
	return &clock{began: now, end: now.Add(time.Duration(seconds * 1e9)), cpu: cpuSeconds()}
}

func (c *clock) going() bool { return time.Now().Before(c.end) }

func (c *clock) figures() map[string]any {
	return map[string]any{
		"count":   c.count.Load(),
		"seconds": time.Since(c.began).Seconds(),
		"cpu":     cpuSeconds() - c.cpu,
	}
}

func (c *clock) report() {
	check(json.NewEncoder(os.Stdout).Encode(c.figures()))
}

func (c *clock) reportLatencies(latencies []time.Duration) {
	figures := c.figures()
	slices.Sort(latencies)
	figures["latency_median"] = quantile(latencies, 0.5)
	figures["latency_p99"] = quantile(latencies, 0.99)
	check(json.NewEncoder(os.Stdout).Encode(figures))
}

// Seconds, between the two that are nearest, as statistics.quantiles of Python has it ("inclusive").
func quantile(sorted []time.Duration, share float64) float64 {
	place := share * float64(len(sorted)-1)
	below := int(place)
	above := min(below+1, len(sorted)-1)
	low, high := sorted[below].Seconds(), sorted[above].Seconds()
	return low + (high-low)*(place-float64(below))
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// A pacer gives the times at which calls are due, by the kernel's timer, as in the peers in Python:
// timers of Go are late by up to a millisecond.
type pacer struct {
	timer    *os.File
	began    time.Time
	interval time.Duration
	done     int
}

func startPacer(rate int) *pacer {
	fd := must(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC))
	interval := time.Second / time.Duration(rate)
	first := time.Millisecond
	spec := unix.ItimerSpec{
		Interval: unix.NsecToTimespec(interval.Nanoseconds()),
		Value:    unix.NsecToTimespec(first.Nanoseconds()),
	}
	began := time.Now().Add(first)
	check(unix.TimerfdSettime(fd, 0, &spec, nil))
	return &pacer{timer: os.NewFile(uintptr(fd), "timer"), began: began, interval: interval}
}

// Waits for at least one.
func (p *pacer) due() []time.Time {
	var ticks [8]byte
	must(p.timer.Read(ticks[:]))
	times := make([]time.Time, binary.NativeEndian.Uint64(ticks[:]))
	for index := range times {
		times[index] = p.began.Add(time.Duration(p.done) * p.interval)
		p.done++
	}
	return times
}
