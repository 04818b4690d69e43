// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
)

// cutEvery is how often one host's cuts go into the log of events.
const cutEvery = time.Minute

// cuts are links that were ended for what their agents sent, on their way into the log.
type cuts struct {
	events chan link.Abuse
	total  *prometheus.CounterVec
}

func newCuts() cuts { return cuts{events: make(chan link.Abuse, 64)} }

func (w *Worker) registerCuts() {
	w.cuts.total = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_agents_cut_total", Help: "Links ended for what their agents sent or did not take, by reason."}, []string{"reason"})
	w.metrics.reg.MustRegister(w.cuts.total)
}

// agentCut is told by the door; it must not block.
func (w *Worker) agentCut(a link.Abuse) {
	w.cuts.total.WithLabelValues(a.Reason).Inc()
	select {
	case w.cuts.events <- a:
	default: // the log has enough of them
	}
}

// tellCuts writes them down, once a minute for each host at most.
func (w *Worker) tellCuts(ctx context.Context) error {
	told := map[string]time.Time{}
	for {
		var a link.Abuse
		select {
		case <-ctx.Done():
			return nil
		case a = <-w.cuts.events:
		}
		now := time.Now().UTC()
		for host, at := range told {
			if now.Sub(at) >= cutEvery {
				delete(told, host)
			}
		}
		if _, recent := told[a.Host]; recent {
			continue
		}
		told[a.Host] = now
		w.log.Warn("agent cut", "host", a.Host, "reason", a.Reason, "cause", a.Detail)
		x := v1.Event{
			ID: newEventID(), At: now, Type: "agent.cut", Severity: string(ha.Warning), Worker: w.o.ID, Host: a.Host,
			Message: fmt.Sprintf("the link of host %s was ended for %s: %s", a.Host, a.Reason, a.Detail), Data: map[string]string{"reason": a.Reason},
		}
		if spec, ok := w.view.spec(a.Host); ok {
			x.Partition = spec.Val.Partition
		}
		cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
		_, err := w.client.Commit(cctx, leases.Unowned(), leases.Put(leases.EventKey(x.ID), x))
		cancel()
		if err != nil {
			w.log.Warn("write event", "cause", err)
		}
	}
}
