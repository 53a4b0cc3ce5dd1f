// Package status holds what the two peers do in the same way: the flags, the run against a deadline, and the result.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Linger is how long the first record of a batch waits for others.
const Linger = 50 * time.Millisecond

// CommitEvery is the least time between two commits of offsets to Kafka.
const CommitEvery = 100 * time.Millisecond

// Options are the flags.
type Options struct {
	Brokers                 []string
	DB, Topic, Group, Table string
	Rows                    int64
	Writers, Batch          int
	Timeout                 time.Duration
}

// Job is one run: until Rows rows are committed, or until something fails.
type Job struct {
	Options
	stop context.CancelCauseFunc

	mu        sync.Mutex
	rows      int64
	firstRows int64
	first     time.Time
	last      time.Time
}

type result struct {
	Rows     int64   `json:"rows"`
	Seconds  float64 `json:"seconds"`
	RowsPerS float64 `json:"rows_per_s"`
	CPUS     float64 `json:"cpu_s"`
	PeakMB   float64 `json:"peak_mb"`
}

var errDone = errors.New("all rows are committed")

// Main is the whole program around consume, which reads until reading is over, writes, and commits the last offsets
// before it returns. Reading ends when all rows are committed; all is the context of what has to come to its end
// even then.
func Main(batch int, consume func(all, reading context.Context, job *Job) error) {
	job := &Job{Options: options(batch)}
	all, cancel := context.WithTimeout(context.Background(), job.Timeout)
	defer cancel()
	reading, stop := context.WithCancelCause(all)
	job.stop = stop
	err := consume(all, reading, job)
	if cause := context.Cause(reading); err == nil && !errors.Is(cause, errDone) {
		err = cause
	}
	var out result
	if err == nil {
		out, err = job.result()
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("not done after %s: %w", job.Timeout, err)
		}
		fmt.Fprintf(os.Stderr, "failed with %d of %d rows committed: %v\n", job.rows, job.Rows, err)
		os.Exit(1)
	}
}

// Fail ends the run with an error.
func (j *Job) Fail(err error) { j.stop(err) }

// Committed notes that a transaction with so many rows has just been committed.
func (j *Job) Committed(rows int) {
	now := time.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.rows == 0 {
		j.first, j.firstRows = now, int64(rows)
	}
	j.last = now
	j.rows += int64(rows)
	if j.rows >= j.Rows {
		j.stop(errDone)
	}
}

func (j *Job) result() (result, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return result{}, fmt.Errorf("getrusage: %w", err)
	}
	peak, err := peakMB()
	if err != nil {
		return result{}, err
	}
	out := result{Rows: j.rows, Seconds: j.last.Sub(j.first).Seconds(), PeakMB: peak}
	out.CPUS = time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
	if out.Seconds > 0 {
		out.RowsPerS = float64(j.rows-j.firstRows) / out.Seconds
	}
	return out, nil
}

func peakMB() (float64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "VmHWM:" {
			kib, err := strconv.ParseFloat(words[1], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmHWM")
}

func options(batch int) Options {
	var o Options
	brokers := flag.String("brokers", "", "brokers to start from, host:port, with commas between")
	flag.StringVar(&o.DB, "db", "", "URL of the database")
	flag.StringVar(&o.Topic, "topic", "", "topic to read")
	flag.StringVar(&o.Group, "group", "", "consumer group; a new one starts at the earliest offset")
	flag.StringVar(&o.Table, "table", "processed_seed_status", "table to write")
	flag.Int64Var(&o.Rows, "rows", 0, "end after so many committed rows")
	flag.IntVar(&o.Writers, "writers", 4, "connections that write")
	flag.IntVar(&o.Batch, "batch", batch, "the most rows of one COPY")
	flag.DurationVar(&o.Timeout, "timeout", 300*time.Second, "fail when it takes longer")
	flag.Parse()
	for name, value := range map[string]string{"brokers": *brokers, "db": o.DB, "topic": o.Topic, "group": o.Group} {
		if value == "" {
			usage("-" + name + " is missing")
		}
	}
	if o.Rows < 1 || o.Writers < 1 || o.Batch < 1 || flag.NArg() > 0 {
		usage("-rows, -writers and -batch must be 1 or more, and nothing may follow the flags")
	}
	o.Brokers = strings.Split(*brokers, ",")
	return o
}

func usage(problem string) {
	fmt.Fprintln(os.Stderr, problem)
	flag.Usage()
	os.Exit(2)
}
