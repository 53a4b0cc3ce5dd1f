// Package group holds what the peers on sarama do in the same way: one consumer group with commits of their own.
package group

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"peers/internal/status"
)

// Consume joins the job's group with a handler until reading is over. tune sets how much is fetched at a time.
func Consume(reading context.Context, job *status.Job, handler sarama.ConsumerGroupHandler, tune func(*sarama.Config)) error {
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Return.Errors = true
	config.Consumer.MaxProcessingTime = 5 * time.Second // a claim may wait for its writers without being unsubscribed
	tune(config)
	group, err := sarama.NewConsumerGroup(job.Brokers, job.Group, config)
	if err != nil {
		return err
	}
	var errs sync.WaitGroup
	var failed error
	errs.Go(func() {
		for err := range group.Errors() { // a commit that was refused, too
			failed = err
			job.Fail(err)
		}
	})
	for reading.Err() == nil {
		if err := group.Consume(reading, []string{job.Topic}, handler); err != nil {
			job.Fail(err)
		}
	}
	err = group.Close()
	errs.Wait()
	if failed != nil {
		return failed
	}
	return err
}

// Commit commits what is marked, every now and then, until the session ends.
func Commit(session sarama.ConsumerGroupSession) {
	ticker := time.NewTicker(status.CommitEvery)
	defer ticker.Stop()
	for {
		select {
		case <-session.Context().Done():
			return
		case <-ticker.C:
			session.Commit()
		}
	}
}
