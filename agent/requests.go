// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

const (
	// maxRequests bounds the requests under way.
	maxRequests = 16
	// maxRequestTime bounds each of them.
	maxRequestTime = 10 * time.Minute
)

// handle works on one request and always has an answer for it, in time for the asker to
// still be there: what is not known by then is unknown.
func (a *Agent) handle(ctx context.Context, r *agentpb.Request) *agentpb.Answer {
	out := &agentpb.Answer{Id: r.GetId()}
	if err := a.work(ctx, r, out); err != nil {
		out.Error = err.Error()
	}
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
	return err
}
