// Peer of the bench: the orders flow the way it was done before, with sarama and pgx. One transaction for each order,
// which locks the row of its product. At least once; an order that has a row already is refused by its key.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"peers/internal/group"
	"peers/internal/status"
)

// markEvery is how many orders a worker has behind it when it marks their offsets.
const markEvery = 100

// lockNotAvailable is what NOWAIT fails with, and lockPause how long a worker waits then.
const (
	lockNotAvailable = "55P03"
	lockPause        = time.Millisecond
)

var nowait = flag.Bool("nowait", false, "fail at once where another worker has the product, and try again")

func main() { status.Main(markEvery, consume) }

type order struct {
	OrderID    string      `json:"order_id"`
	CustomerID string      `json:"customer_id"`
	ProductID  string      `json:"product_id"`
	Quantity   int32       `json:"quantity"`
	Amount     json.Number `json:"amount"`
}

// handler runs the workers of one session: they start with it, and its end waits for them.
type handler struct {
	all, reading context.Context
	job          *status.Job
	conns        []*pgx.Conn

	in      chan *sarama.ConsumerMessage
	workers sync.WaitGroup
}

func consume(all, reading context.Context, job *status.Job) error {
	h := &handler{all: all, reading: reading, job: job}
	for range job.Writers {
		conn, err := pgx.Connect(all, job.DB)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(all) }()
		h.conns = append(h.conns, conn)
	}
	return group.Consume(reading, job, h, func(config *sarama.Config) {
		config.Consumer.Fetch.Default = 64 << 10 // far more than the workers get through meanwhile
	})
}

// Setup starts the session's workers, and the commits of the offsets that they mark.
func (h *handler) Setup(session sarama.ConsumerGroupSession) error {
	h.in = make(chan *sarama.ConsumerMessage, markEvery*len(h.conns))
	for _, conn := range h.conns {
		h.workers.Go(func() {
			if err := h.work(session, conn); err != nil {
				h.job.Fail(err)
			}
		})
	}
	h.workers.Go(func() { group.Commit(session) })
	return nil
}

// Cleanup waits for the workers, and commits the offsets for the last time.
func (h *handler) Cleanup(session sarama.ConsumerGroupSession) error {
	close(h.in)
	h.workers.Wait()
	session.Commit()
	return nil
}

// ConsumeClaim hands one partition's messages to whichever worker is free.
func (h *handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		select {
		case h.in <- message:
		case <-session.Context().Done():
			return nil
		}
	}
	return nil
}

func (h *handler) work(session sarama.ConsumerGroupSession, conn *pgx.Conn) error {
	var done []*sarama.ConsumerMessage
	mark := func() {
		for _, message := range done {
			session.MarkMessage(message, "")
		}
		done = done[:0]
	}
	defer mark()
	for {
		select {
		case <-h.reading.Done():
			return nil
		case message, open := <-h.in:
			if !open {
				return nil
			}
			var placed order
			if err := json.Unmarshal(message.Value, &placed); err != nil {
				return fmt.Errorf("partition %d, offset %d: %w", message.Partition, message.Offset, err)
			}
			if err := h.reserve(conn, &placed, message.Timestamp); err != nil {
				return err
			}
			h.job.Committed(1)
			if done = append(done, message); len(done) == h.job.Batch {
				mark()
			}
		}
	}
}

// reserve does one order in one transaction, again and again while others have its product, where it does not wait.
func (h *handler) reserve(conn *pgx.Conn, placed *order, at time.Time) error {
	for {
		err := pgx.BeginFunc(h.all, conn, func(tx pgx.Tx) error { return h.try(tx, placed, at) })
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != lockNotAvailable {
			return err
		}
		time.Sleep(lockPause)
	}
}

func (h *handler) try(tx pgx.Tx, placed *order, at time.Time) error {
	lock := `SELECT available_quantity FROM inventory WHERE product_id = $1 AND bucket = 0 FOR UPDATE`
	if *nowait {
		lock += ` NOWAIT`
	}
	var available int64
	if err := tx.QueryRow(h.all, lock, placed.ProductID).Scan(&available); err != nil {
		return err
	}
	if available < int64(placed.Quantity) {
		return fmt.Errorf("%s is sold out, which is not what is measured", placed.ProductID)
	}
	_, err := tx.Exec(h.all, `UPDATE inventory
		SET available_quantity = available_quantity - $2, reserved_quantity = reserved_quantity + $2, updated_at = now()
		WHERE product_id = $1 AND bucket = 0`, placed.ProductID, int64(placed.Quantity))
	if err != nil {
		return err
	}
	_, err = tx.Exec(h.all, `INSERT INTO orders
		(order_id, customer_id, product_id, quantity, amount, created_at, status, bucket)
		VALUES ($1, $2, $3, $4, $5, $6, 'reserved', 0)`,
		placed.OrderID, placed.CustomerID, placed.ProductID, placed.Quantity, placed.Amount.String(), at)
	return err
}
