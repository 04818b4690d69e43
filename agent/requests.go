// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

const (
	// maxRequests bounds the requests under way.
	maxRequests = 16
	// maxRequestTime bounds each of them.
	maxRequestTime = 10 * time.Minute
	// answerLimit is how long an answer waits for a link.
	answerLimit = 10 * time.Second
	// rememberedRequests bounds what is known of requests that came before.
	rememberedRequests = 64
)

// asked remembers the requests of late: while the agent moves from one worker to another a
// request may come twice, and is worked on once.
type asked struct {
	mu    sync.Mutex
	ids   []string                   // oldest first
	known map[string]*agentpb.Answer // nil while it is worked on
	when  map[string]time.Time       // of the answers
}

// begin notes a request; if it has come before, it returns its answer, or nil while there is
// none, and true.
func (m *asked) begin(id string) (*agentpb.Answer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if answer, again := m.known[id]; again {
		return answer, true
	}
	if m.known == nil {
		m.known, m.when = map[string]*agentpb.Answer{}, map[string]time.Time{}
	}
	m.known[id] = nil
	m.ids = append(m.ids, id)
	if len(m.ids) > rememberedRequests {
		delete(m.known, m.ids[0])
		delete(m.when, m.ids[0])
		m.ids = slices.Delete(m.ids, 0, 1)
	}
	return nil, false
}

func (m *asked) done(answer *agentpb.Answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.known[answer.GetId()]; known {
		m.known[answer.GetId()], m.when[answer.GetId()] = answer, time.Now()
	}
}

// late are the answers of late: one that was sent on a link which another has just replaced
// may not have been heard.
func (m *asked) late() (out []*agentpb.Answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, at := range m.when {
		if time.Since(at) < answerLimit {
			out = append(out, m.known[id])
		}
	}
	return out
}

// start works on a request beside the others, if there is room. The work is not bound to
// the stream that it came on: an agent that moves to another worker goes on with it and
// answers there.
func (a *Agent) start(ctx context.Context, r *agentpb.Request) {
	answer, again := a.asked.begin(r.GetId())
	if again && answer == nil {
		return
	}
	room := false
	if !again {
		select {
		case a.requests <- struct{}{}:
			room = true
		default:
			a.metrics.worked(r, "busy")
			answer = &agentpb.Answer{Id: r.GetId(), Error: fmt.Sprintf("refuse request: %d are under way already", maxRequests)}
		}
	}
	a.working.Go(func() {
		if room {
			answer = a.handle(ctx, r)
			a.asked.done(answer)
			<-a.requests
		}
		a.post(ctx, answer)
	})
}

// post hands an answer to whichever session is active, if there is one in time.
func (a *Agent) post(ctx context.Context, answer *agentpb.Answer) {
	limit := time.NewTimer(answerLimit) // who asked has given up by then
	defer limit.Stop()
	select {
	case a.outbox <- answer:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// handle works on one request and always has an answer for it, in time for the asker to
// still be there: what is not known by then is unknown.
func (a *Agent) handle(ctx context.Context, r *agentpb.Request) *agentpb.Answer {
	out := &agentpb.Answer{Id: r.GetId()}
	result := "ok"
	if err := a.work(ctx, r, out); err != nil {
		result, out.Error = "error", err.Error()
	}
	a.metrics.worked(r, result)
	return out
}

func (a *Agent) work(ctx context.Context, r *agentpb.Request, out *agentpb.Answer) error {
	if err := a.admit(r.GetEpoch()); err != nil {
		return fmt.Errorf("refuse request: %w", err)
	}
	limit := time.Duration(r.GetTimeoutMs()) * time.Millisecond
	if limit <= 0 || limit > maxRequestTime {
		return fmt.Errorf("refuse request: timeout_ms is %d: want 1 to %d", r.GetTimeoutMs(), maxRequestTime.Milliseconds())
	}
	ctx, cancel := context.WithTimeout(ctx, limit-min(limit/10, 500*time.Millisecond))
	defer cancel()
	switch body := r.GetBody().(type) {
	case *agentpb.Request_Activity:
		answer, err := a.activity(ctx, body.Activity)
		if err != nil {
			return err
		}
		out.Body = &agentpb.Answer_Activity{Activity: answer}
	case *agentpb.Request_Health:
		// What it finds is in the report, its error too.
		_ = a.health.refresh(ctx)
		out.Body = &agentpb.Answer_Health{Health: &agentpb.HealthAnswer{Report: a.report()}}
	case *agentpb.Request_Command:
		answer, err := a.commands.handle(ctx, body.Command)
		if err != nil {
			return err
		}
		out.Body = &agentpb.Answer_Command{Command: answer}
	default:
		return errors.New("refuse request: this agent's version does not know its kind")
	}
	return nil
}

// admit refuses epochs older than the highest seen. One that cannot be written down is
// admitted: a full disk must not cut the host off.
func (a *Agent) admit(e *agentpb.Epoch) error {
	err := a.epochs.admit(e)
	if errors.Is(err, errUnkept) {
		a.opts.Logger.Warn("epoch is remembered until this process ends only", "epoch", e.GetRevision(), "cause", err)
		return nil
	}
	if err != nil {
		a.metrics.epochsRefused.Inc()
	}
	return err
}
