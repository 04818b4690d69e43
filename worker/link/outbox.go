// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
)

// outbox is what waits to be sent on one agent's stream. Whoever finds that nobody sends does
// so, or lets a goroutine do it that ends with the last frame: a stream on which nothing
// happens has no other goroutine than the one that reads it, and its answer to a frame costs
// no change of goroutines. One sends at a time.
type outbox struct {
	conn *frame.Conn

	mu      sync.Mutex
	queue   []*agentpb.Down
	sending bool
	ended   error          // nothing is taken any more; the stream is over when the queue is sent
	broken  error          // why the connection was cut from here
	work    sync.WaitGroup // goroutines that send
	late    *time.Timer    // until the last word must have been heard
}

func newOutbox(c *frame.Conn) *outbox { return &outbox{conn: c} }

// put leaves a frame to be sent and never blocks. A peer so slow that there is no room is cut:
// memory per agent is bounded.
func (b *outbox) put(d *agentpb.Down) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended != nil || b.broken != nil:
	case len(b.queue) >= sendQueue:
		b.snap(&abuseError{SlowReader, "it reads too slowly: the send queue is full"})
	default:
		b.add(d)
	}
}

// add queues a frame and sees to it that somebody sends it. b.mu is held.
func (b *outbox) add(d *agentpb.Down) {
	b.queue = append(b.queue, d)
	if !b.sending {
		b.sending = true
		b.work.Go(b.send)
	}
}

// cut ends the connection without another word; whoever reads or sends on it is woken. It never
// blocks; only the first cause counts.
func (b *outbox) cut(cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.snap(cause)
}

// snap is cut. b.mu is held.
func (b *outbox) snap(cause error) {
	if b.broken == nil {
		b.broken = cause
		b.conn.Cut()
	}
}

// hold says whether the caller, which reads the stream, is to send what is put until it calls
// send, which it must then.
func (b *outbox) hold() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sending {
		return false
	}
	b.sending = true
	return true
}

// send sends what is queued.
func (b *outbox) send() {
	for {
		d, last := b.next()
		if last {
			_ = b.conn.CloseWrite() // a peer that is gone has heard enough
		}
		if d == nil {
			return
		}
		err := b.conn.Write(d)
		switch {
		case err == nil:
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = &abuseError{SlowReader, fmt.Sprintf("it reads too slowly: a frame was not taken within %v", frame.WriteLimit)}
		default:
			err = fmt.Errorf("send to agent: %v", err) // not wrapped: it is not the agent's frame that is wrong
		}
		b.cut(err)
		return // nobody sends any more
	}
}

// next takes the oldest frame; nil: there is none, and somebody else may send. last: nor will be.
func (b *outbox) next() (d *agentpb.Down, last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		b.sending = false
		return nil, b.ended != nil
	}
	d = b.queue[0]
	copy(b.queue, b.queue[1:]) // they are few: the array stays, and stays small
	b.queue[len(b.queue)-1] = nil
	b.queue = b.queue[:len(b.queue)-1]
	return d, false
}

// refuse says why the stream ends as its last word, which its peer must take, and hang up, within
// lastWord. It never blocks; only the first one counts.
func (b *outbox) refuse(r *agentpb.Refusal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended != nil || b.broken != nil {
		return
	}
	b.ended = &refusedError{r}
	cause := b.ended
	b.add(&agentpb.Down{Frame: &agentpb.Down_Refusal{Refusal: r}})
	b.late = time.AfterFunc(lastWord, func() { b.cut(cause) })
}

// over says whether and why the stream is about to end.
func (b *outbox) over() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended
}

// end is how the goroutine that reads ends the stream: it sends the last word if cause has one,
// waits until nobody sends, and closes the connection.
func (b *outbox) end(cause error) {
	var r *refusedError
	said := errors.As(cause, &r)
	if said {
		b.refuse(r.Refusal)
	} else {
		b.cut(cause)
	}
	b.mu.Lock()
	if b.ended == nil {
		b.ended = cause
	}
	late := b.late
	b.mu.Unlock()
	b.work.Wait()
	if late != nil {
		leave(b.conn.Raw())
		late.Stop()
	}
	b.cut(cause)
}

// why is what a failed read says: the reason for which the stream was ended from here, if it was.
func (b *outbox) why(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.broken != nil:
		return b.broken
	case b.ended != nil:
		return b.ended
	}
	return err
}
