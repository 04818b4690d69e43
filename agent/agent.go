// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// accessLimit is after how long a pool or a hypervisor that does not answer is hung.
const accessLimit = 5 * time.Second

// Agent is one host's agent. Make it with New, then call Run once.
type Agent struct {
	opts     Options
	trust    atomic.Pointer[trust.Source] // nil: plaintext on loopback, or not enrolled yet
	enrol    *enrolment                   // nil: certificates come from files of others
	process  string                       // names this process; later processes sort after earlier ones
	epochs   *epochs
	distrust *distrust
	workers  *workerList
	disk     *lane // of the state dir
	settings *settings
	pools    []*pool
	health   *health
	gate     *gate
	requests chan struct{} // one token per request under way
	asked    asked
	working  sync.WaitGroup       // requests under way
	outbox   chan *agentpb.Answer // to be sent by whichever session is active
	moves    chan *agentpb.Move   // a worker asks for a move
	blind    chan struct{}        // a token: the worker of the link cannot tell who owns the host
	sessions atomic.Uint64        // number of the last session
	commands commands
	watches  *watches
	metrics  *metrics
	began    time.Time                 // this process
	linked   atomic.Pointer[linkNow]   // nil: the first link is not tried yet
	answered atomic.Pointer[time.Time] // when the owner last answered a ping; nil: never
	showing  atomic.Pointer[string]    // where metrics are shown

	boot string // of the host, known before the first session
}

// New validates the options and the certificate files (ErrOptions) and reads the state dir, which it creates if it
// is missing. It starts nothing and opens no connection.
func New(o Options) (*Agent, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	var certs *trust.Source
	if !o.InsecureLoopback && o.JoinToken == "" {
		var err error
		if certs, err = openTrust(o); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrOptions, err)
		}
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("set up agent: state dir: %w", err)
	}
	remembered, err := loadEpochs(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("set up agent: %w", err)
	}
	revoked, err := loadDistrust(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("set up agent: %w", err)
	}
	list, err := loadWorkers(o.StateDir, o.Workers)
	if err != nil {
		return nil, fmt.Errorf("set up agent: %w", err)
	}
	process, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("set up agent: name the process: %w", err)
	}
	o.Logger = o.Logger.With("host", o.Host)
	a := &Agent{
		opts: o, process: process.String(), epochs: remembered, distrust: revoked, workers: list,
		settings: newSettings(), health: newHealth(o.Hypervisor), gate: newGate(),
		began: time.Now(), watches: newWatches(), requests: make(chan struct{}, maxRequests), outbox: make(chan *agentpb.Answer), moves: make(chan *agentpb.Move, 1), blind: make(chan struct{}, 1),
	}
	if certs != nil {
		a.believe(certs)
	}
	if o.JoinToken != "" {
		a.enrol = newEnrolment(o)
		if err := a.enrol.open(a); err != nil {
			return nil, fmt.Errorf("set up agent: %w", err)
		}
	}
	a.disk = newLane("disk of "+o.StateDir, stateLimit)
	a.epochs.disk, a.distrust.disk, a.workers.disk = a.disk, a.disk, a.disk
	for _, p := range o.Pools {
		a.pools = append(a.pools, newPool(p))
	}
	a.measure()
	return a, nil
}

// Run works until ctx ends, says goodbye to its worker, and returns nil. Accesses that
// hang are left behind (doc.go).
func (a *Agent) Run(ctx context.Context) error {
	work, ctx := errgroup.WithContext(ctx)
	for _, p := range a.pools {
		work.Go(func() error { return a.stampLoop(ctx, p) })
	}
	work.Go(func() error { return a.healthLoop(ctx) })
	work.Go(func() error { return a.watchLoop(ctx) })
	work.Go(func() error { return a.gateLoop(ctx) })
	work.Go(func() error { return a.linkLoop(ctx) })
	work.Go(func() error { return a.trustLoop(ctx) })
	work.Go(func() error { return a.metricsLoop(ctx) })
	if a.enrol != nil {
		work.Go(func() error { return a.enrolLoop(ctx) })
	}
	return work.Wait()
}

// report is what this host says of itself now. It only reads what the loops found, so
// that nothing that hangs delays a ping.
func (a *Agent) report() *agentpb.Report {
	r := &agentpb.Report{}
	a.health.fill(r)
	for _, p := range a.pools {
		r.Pools = append(r.Pools, p.report(a.settings.get().stamp))
	}
	if since := a.hungSince(); !since.IsZero() {
		r.StateDiskHung = since.UTC().Format(time.RFC3339)
	}
	return r
}

// sleep waits for d or until ctx ends, and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
