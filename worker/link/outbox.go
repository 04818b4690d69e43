// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

// outbox is what waits to be sent on one agent's stream. Whoever finds that nobody sends does
// so, or lets a goroutine do it that ends with the last frame: a stream on which nothing
// happens has no other goroutine than the one that reads it, and its answer to a frame costs
// no change of goroutines. One sends at a time.
type outbox struct {
	stream stream
	cancel context.CancelCauseFunc // ends the stream's context, and with it whoever reads or sends

	mu      sync.Mutex
	queue   []*agentpb.Down
	sending bool
	ended   error          // nothing is taken any more; the stream is over when the queue is sent
	work    sync.WaitGroup // goroutines that send
	stuck   *time.Timer    // runs while a frame is on its way
}

// put leaves a frame to be sent and never blocks. A peer so slow that there is no room is cut:
// memory per agent is bounded.
func (b *outbox) put(d *agentpb.Down) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended != nil:
	case len(b.queue) >= sendQueue:
		b.cancel(&abuseError{SlowReader, "it reads too slowly: the send queue is full"})
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
		d := b.next()
		if d == nil {
			return
		}
		b.stuck.Reset(sendTimeout)
		err := b.stream.Send(d)
		b.stuck.Stop()
		if err != nil {
			b.cancel(fmt.Errorf("send to agent: %w", err)) // nobody sends any more
			return
		}
	}
}

// next takes the oldest frame; nil: there is none, and somebody else may send.
func (b *outbox) next() *agentpb.Down {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		if b.sending = false; b.ended != nil {
			b.cancel(b.ended)
		}
		return nil
	}
	if b.stuck == nil {
		b.stuck = time.AfterFunc(time.Hour, func() {
			b.cancel(&abuseError{SlowReader, fmt.Sprintf("it reads too slowly: a frame was not taken within %v", sendTimeout)})
		})
	}
	d := b.queue[0]
	copy(b.queue, b.queue[1:]) // they are few: the array stays, and stays small
	b.queue[len(b.queue)-1] = nil
	b.queue = b.queue[:len(b.queue)-1]
	return d
}

// refuse says why the stream ends as its last word, which its peer must take within lastWord.
// It never blocks; only the first one counts.
func (b *outbox) refuse(r *agentpb.Refusal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended != nil {
		return
	}
	b.ended = &refusedError{r}
	cause := b.ended
	b.add(&agentpb.Down{Frame: &agentpb.Down_Refusal{Refusal: r}})
	time.AfterFunc(lastWord, func() { b.cancel(cause) })
}

// over says whether and why the stream is about to end.
func (b *outbox) over() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended
}

// end is how the goroutine that reads ends the stream: it sends the last word if cause has one
// and waits until nobody sends. It returns what the peer is told as the stream's status.
func (b *outbox) end(cause error) error {
	var r *refusedError
	said := errors.As(cause, &r)
	if said {
		b.refuse(r.Refusal)
	} else {
		b.cancel(cause)
	}
	b.mu.Lock()
	if b.ended == nil {
		b.ended = cause
	}
	b.mu.Unlock()
	b.work.Wait()
	switch code := status.Code(cause); {
	case said:
		return nil
	case code == codes.PermissionDenied || code == codes.Unavailable || code == codes.ResourceExhausted:
		return cause
	}
	return status.Error(codes.Unavailable, "session ended")
}

type cancelKey struct{}

// cancellable lets streams of agents be ended from outside: a read that waits returns only with the
// stream's context, so each gets one that can be cancelled. It is the server's tap.
func cancellable(ctx context.Context, info *tap.Info) (context.Context, error) {
	if info.FullMethodName != agentpb.Link_Connect_FullMethodName {
		return ctx, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	return context.WithValue(ctx, cancelKey{}, cancel), nil
}

// newOutbox makes the outbox of a stream that came through cancellable.
func newOutbox(st stream) (*outbox, error) {
	cancel, ok := st.Context().Value(cancelKey{}).(context.CancelCauseFunc)
	if !ok {
		return nil, status.Error(codes.Internal, "the stream came to a server that was not made by NewGRPC")
	}
	return &outbox{stream: st, cancel: cancel}, nil
}

// why is what a failed read says: the reason for which the stream was ended from here, if it was.
func (b *outbox) why(err error) error {
	if cause := context.Cause(b.stream.Context()); status.Code(err) == codes.Canceled && cause != nil && cause != context.Canceled {
		return cause
	}
	return err
}
