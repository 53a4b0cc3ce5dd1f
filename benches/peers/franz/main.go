// Peer of the bench: the status flow with franz-go, hamba/avro and pgx. At least once.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"peers/internal/status"
)

const batchRows = 10_000

func main() { status.Main(batchRows, consume) }

// written holds the last written record of each partition whose offset is still to be committed.
type written struct {
	mu   sync.Mutex
	last map[int32]*kgo.Record
}

// add takes a batch that is in the table. A partition has one writer, so its records come in order.
func (w *written) add(batch []*kgo.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, record := range batch {
		if i+1 == len(batch) || batch[i+1].Partition != record.Partition {
			w.last[record.Partition] = record
		}
	}
}

// commit tells Kafka what has been added since the last time.
func (w *written) commit(ctx context.Context, client *kgo.Client) error {
	w.mu.Lock()
	records := slices.Collect(maps.Values(w.last))
	clear(w.last)
	w.mu.Unlock()
	if len(records) == 0 {
		return nil
	}
	if err := client.CommitRecords(ctx, records...); err != nil {
		return fmt.Errorf("committing offsets: %w", err)
	}
	return nil
}

func consume(all, reading context.Context, job *status.Job) error {
	schema, err := avro.Parse(status.Schema)
	if err != nil {
		return err
	}
	done := &written{last: map[int32]*kgo.Record{}}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(job.Brokers...),
		kgo.ConsumerGroup(job.Group),
		kgo.ConsumeTopics(job.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsRevoked(func(ctx context.Context, client *kgo.Client, _ map[string][]int32) {
			if err := done.commit(ctx, client); err != nil {
				job.Fail(err)
			}
		}),
		kgo.FetchMinBytes(64<<10),
		kgo.FetchMaxWait(status.Linger),
		kgo.FetchMaxPartitionBytes(512<<10), // a fetch holds something of every partition, so all writers are busy
		kgo.FetchMaxBytes(16<<20),
	)
	if err != nil {
		return err
	}
	defer client.Close()

	var writers sync.WaitGroup
	ins := make([]chan []*kgo.Record, job.Writers)
	for i := range ins {
		sink, err := job.Connect(all)
		if err != nil {
			return err
		}
		defer sink.Close(all)
		ins[i] = make(chan []*kgo.Record, 8)
		writers.Go(func() {
			if err := write(all, reading, job, sink, schema, ins[i], done); err != nil {
				job.Fail(err)
			}
		})
	}
	writers.Go(func() {
		ticker := time.NewTicker(status.CommitEvery)
		defer ticker.Stop()
		for {
			select {
			case <-reading.Done():
				return
			case <-ticker.C:
				if err := done.commit(all, client); err != nil {
					job.Fail(err)
				}
			}
		}
	})
	if err := read(reading, client, ins); err != nil {
		job.Fail(err)
	}
	writers.Wait()
	return done.commit(all, client)
}

// read hands fetched records to the writers until reading is over.
func read(reading context.Context, client *kgo.Client, ins []chan []*kgo.Record) error {
	for {
		fetches := client.PollFetches(reading)
		if reading.Err() != nil {
			return nil
		}
		var failed error
		fetches.EachError(func(_ string, partition int32, err error) {
			failed = errors.Join(failed, fmt.Errorf("fetching partition %d: %w", partition, err))
		})
		if failed != nil {
			return failed
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if len(p.Records) == 0 {
				return
			}
			select {
			case ins[int(p.Partition)%len(ins)] <- p.Records:
			case <-reading.Done():
			}
		})
	}
}

func write(
	all, reading context.Context, job *status.Job, sink *status.Sink, schema avro.Schema,
	in <-chan []*kgo.Record, done *written,
) error {
	decoder := avro.Config{}.Freeze()
	return status.Batches(reading, in, job.Batch, func(batch []*kgo.Record) error {
		err := sink.Copy(all, len(batch), func(i int, row *status.Row) error {
			record := batch[i]
			if err := decoder.Unmarshal(schema, record.Value, row); err != nil {
				return fmt.Errorf("partition %d, offset %d: %w", record.Partition, record.Offset, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		done.add(batch)
		job.Committed(len(batch))
		return nil
	})
}
