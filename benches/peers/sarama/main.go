// Peer of the bench: the status flow with sarama, goavro and pgx. At least once.
package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/linkedin/goavro/v2"

	"peers/internal/group"
	"peers/internal/status"
)

const (
	batchRows = 2_500
	chunkRows = 256
)

func main() { status.Main(batchRows, consume) }

// handler runs the writers of one session: they start with it, and its end waits for them.
type handler struct {
	all, reading context.Context
	job          *status.Job
	codec        *goavro.Codec
	sinks        []*status.Sink

	ins     []chan []*sarama.ConsumerMessage
	writers sync.WaitGroup
}

func consume(all, reading context.Context, job *status.Job) error {
	codec, err := goavro.NewCodec(status.Schema)
	if err != nil {
		return err
	}
	h := &handler{all: all, reading: reading, job: job, codec: codec}
	for range job.Writers {
		sink, err := job.Connect(all)
		if err != nil {
			return err
		}
		defer sink.Close(all)
		h.sinks = append(h.sinks, sink)
	}
	return group.Consume(reading, job, h, func(config *sarama.Config) {
		config.Consumer.MaxWaitTime = status.Linger
		config.Consumer.Fetch.Min = 64 << 10
		config.Consumer.Fetch.Default = 512 << 10
	})
}

// Setup starts the session's writers, and the commits of the offsets that they mark.
func (h *handler) Setup(session sarama.ConsumerGroupSession) error {
	h.ins = make([]chan []*sarama.ConsumerMessage, len(h.sinks))
	for i, sink := range h.sinks {
		in := make(chan []*sarama.ConsumerMessage, 8)
		h.ins[i] = in
		h.writers.Go(func() {
			if err := h.write(session, sink, in); err != nil {
				h.job.Fail(err)
			}
		})
	}
	h.writers.Go(func() { group.Commit(session) })
	return nil
}

// Cleanup waits until what the claims handed over is written, and commits the offsets for the last time.
func (h *handler) Cleanup(session sarama.ConsumerGroupSession) error {
	for _, in := range h.ins {
		close(in)
	}
	h.writers.Wait()
	session.Commit()
	return nil
}

// ConsumeClaim hands one partition's messages to its writer, as many at a time as are there.
func (h *handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	in := h.ins[int(claim.Partition())%len(h.ins)]
	messages := claim.Messages()
	chunk := make([]*sarama.ConsumerMessage, 0, chunkRows)
	for message := range messages {
		chunk = append(chunk, message)
		if len(chunk) < chunkRows && len(messages) > 0 {
			continue
		}
		select {
		case in <- chunk:
			chunk = make([]*sarama.ConsumerMessage, 0, chunkRows)
		case <-session.Context().Done():
			return nil
		}
	}
	return nil
}

func (h *handler) write(
	session sarama.ConsumerGroupSession, sink *status.Sink, in <-chan []*sarama.ConsumerMessage,
) error {
	return status.Batches(h.reading, in, h.job.Batch, func(batch []*sarama.ConsumerMessage) error {
		err := sink.Copy(h.all, len(batch), func(i int, row *status.Row) error {
			message := batch[i]
			native, _, err := h.codec.NativeFromBinary(message.Value)
			if err == nil {
				err = fill(row, native)
			}
			if err != nil {
				return fmt.Errorf("partition %d, offset %d: %w", message.Partition, message.Offset, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i, message := range batch {
			if i+1 == len(batch) || batch[i+1].Partition != message.Partition {
				session.MarkMessage(message, "")
			}
		}
		h.job.Committed(len(batch))
		return nil
	})
}

// fill takes the fields out of what goavro makes of a record: a map by name, and a union as a map by type.
func fill(row *status.Row, native any) error {
	fields, ok := native.(map[string]any)
	if !ok {
		return fmt.Errorf("a record, not %T", native)
	}
	row.ResponseMessage = nil
	if union, ok := fields["response_message"].(map[string]any); ok {
		text, _ := union["string"].(string)
		row.ResponseMessage = &text
	}
	var is [6]bool
	row.EventTimestamp, is[0] = fields["event_timestamp"].(time.Time)
	row.Status, is[1] = fields["status"].(string)
	row.SeedID, is[2] = fields["seed_id"].(int32)
	row.SubScenarioID, is[3] = fields["sub_scenario_id"].(int32)
	row.ScenarioID, is[4] = fields["scenario_id"].(int32)
	row.ScriptID, is[5] = fields["script_id"].(int32)
	if is != [6]bool{true, true, true, true, true, true} {
		return fmt.Errorf("a field has another type than in the schema: %v", fields)
	}
	return nil
}
