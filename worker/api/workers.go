// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// liveAsk is how long other workers may take to tell of themselves. One that is paused
// costs a list this much, and stays unknown in it.
const liveAsk = time.Second

// listWorkers answers from the mirror, with live facts of every worker that answers.
func listWorkers(c *call) error {
	ws, err := c.b.Workers(c.ctx())
	if err != nil {
		return err
	}
	if c.r.Header.Get(forwardedHeader) == "" {
		c.askWorkers(ws)
	}
	return page(c, ws, func(w v1.Worker) string { return w.ID }, false)
}

// askWorkers asks every other worker for its live facts, all at once.
func (c *call) askWorkers(ws []v1.Worker) {
	ctx, cancel := context.WithTimeout(c.ctx(), liveAsk)
	defer cancel()
	var asked sync.WaitGroup
	for i := range ws {
		base, own := c.b.WorkerAPI(ws[i].ID)
		if own || base == "" {
			continue
		}
		asked.Go(func() {
			x, err := c.askWorker(ctx, base, ws[i].ID)
			if err != nil {
				c.o.Logger.Debug("worker does not answer", "worker", ws[i].ID, "cause", err)
				return
			}
			if x.Boot == ws[i].Boot { // else another process than the one on record
				ws[i].Answers, ws[i].Links, ws[i].Standby, ws[i].LeaseLeft = x.Answers, x.Links, x.Standby, x.LeaseLeft
				ws[i].Keys = x.Keys
			}
		})
	}
	asked.Wait()
}

// askWorker reads one worker's own word about itself.
func (c *call) askWorker(ctx context.Context, base, id string) (v1.Worker, error) {
	var x v1.Worker
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/workers/"+url.PathEscape(id), nil)
	if err != nil {
		return x, fmt.Errorf("make request: %w", err)
	}
	r.Header.Set(forwardedHeader, c.who)
	resp, err := c.o.Forward.RoundTrip(r)
	if err != nil {
		return x, fmt.Errorf("ask worker: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return x, fmt.Errorf("ask worker: answer %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&x); err != nil {
		return x, fmt.Errorf("read answer: %w", err)
	}
	return x, nil
}

// getWorker answers from here, with that worker's own word on what only it knows.
func getWorker(c *call) error {
	x, err := c.b.Worker(c.ctx(), c.id())
	if err != nil {
		return err
	}
	one := []v1.Worker{x}
	if c.r.Header.Get(forwardedHeader) == "" {
		c.askWorkers(one)
	}
	return c.reply(one[0])
}

// drainWorker sets or takes back a drain; as a dry run it answers the plan.
func drainWorker(on bool) func(*call) error {
	return func(c *call) error {
		var r v1.DrainRequest
		if err := c.body(&r); err != nil {
			return err
		}
		if c.dry {
			p, err := c.b.PlanDrain(c.ctx(), c.id(), on, r)
			if err != nil {
				return err
			}
			return c.reply(p)
		}
		x, err := c.b.DrainWorker(c.ctx(), c.who, c.id(), on, r)
		if err != nil {
			return err
		}
		return c.reply(x)
	}
}

// raiseGeneration raises the generation of the etcd data, or says what that would do.
func raiseGeneration(c *call) error {
	var r v1.GenerationRequest
	if err := c.body(&r); err != nil {
		return err
	}
	g, err := c.b.RaiseGeneration(c.ctx(), c.who, r)
	if err != nil {
		return err
	}
	return c.reply(g)
}

// planFleet answers what other workers would mean for the slots.
func planFleet(c *call) error {
	var add []v1.Joiner
	for _, s := range c.query["add"] {
		j, err := v1.ParseJoiner(s)
		if err != nil {
			return err
		}
		add = append(add, j)
	}
	for _, id := range c.query["without"] {
		if id == "" {
			return v1.BadField("without", "empty, allowed is a worker's id")
		}
	}
	p, err := c.b.PlanFleet(c.ctx(), c.query["without"], add)
	if err != nil {
		return err
	}
	return c.reply(p)
}
