// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/ipmi"
	"github.com/holdfast-ha/holdfast/worker/power/redfish"
	"github.com/holdfast-ha/holdfast/worker/provider"
	"github.com/holdfast-ha/holdfast/worker/provider/execprovider"
	"github.com/holdfast-ha/holdfast/worker/provider/kvm"
	"github.com/holdfast-ha/holdfast/worker/sealed"
)

// Worker is one management worker. Make it with New, start it with Run.
type Worker struct {
	o   Options
	log *slog.Logger

	client       *leases.Client
	mirror       *leases.Mirror
	eventsMirror *leases.Mirror
	view         *view
	slotN        int

	wire      wire
	trusted   *trusted // whom the fleet trusts beside the certificate files
	renewing  pacer    // of hosts' certificates
	cuts      cuts     // agents that were cut for what they sent
	door      *link.Server
	lists     *listing
	carried   *carried
	awaited   awaited // hosts that other workers asked about in vain
	drivers   *wpower.Registry
	gate      *wpower.Gate
	providers map[string]provider.Provider
	pools     *pools
	ring      *sealed.File // keys of sealed secrets
	metrics   *metrics
	health    *health
	hook      *pageHook
	hooks     *hooks // webhooks and programs that are told of events

	apiAddr, agentsAddr string
	started             time.Time

	mu         sync.Mutex
	session    *leases.Session
	owners     map[string]*owner
	parts      map[string]*partition
	claims     map[int]leases.Claim
	shown      board                         // what owners have published; not under mu
	partStates map[string]ha.PartitionRecord // as committed by partitions here
	reignBegan time.Time                     // since when this worker owns slots
	lostAgents lossWindow
	back       wentBack
	renew      map[int]bool // slots that need a higher epoch
	adopting   adopting
	still      *standstill
	kick       chan struct{} // membership, slots or host specs changed
	stirred    bool          // in the batch of changes that is being applied; touched by the mirror's goroutine only
	told       chan struct{} // workers or owners of slots changed, for the event log
	moved      chan struct{} // slots changed hands, for commands that wait for another host's owner
	atWork     atWork

	secretsVersion atomic.Int64 // raised by each change of a sealed secret
}

// New checks the options, reads the certificates and makes a worker; it starts nothing
// and opens no connection.
func New(o Options) (*Worker, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	certs, err := o.open()
	if err != nil {
		return nil, err
	}
	w := &Worker{
		o: o, wire: certs, log: o.Logger.With("worker", o.ID), started: time.Now().UTC(),
		owners: map[string]*owner{}, parts: map[string]*partition{}, claims: map[int]leases.Claim{},
		partStates: map[string]ha.PartitionRecord{},
		back:       wentBack{hosts: map[string]frozenHost{}}, renew: map[int]bool{}, adopting: newAdopting(), still: newStandstill(o.Logger),
		kick: make(chan struct{}, 1), told: make(chan struct{}, 1), moved: make(chan struct{}, 1), atWork: atWork{all: map[*commander]bool{}}, providers: map[string]provider.Provider{},
	}
	w.health, w.hooks = newHealth(time.Now), newHooks()
	w.metrics = newMetrics(w)
	w.ring = sealed.NewFile(o.KeyRing)
	if w.ring.Refresh(); w.ring.Err() != nil {
		// No reason to stay down: hosts are watched without it, and it is mended while running.
		w.log.Error("key ring cannot be used, sealed secrets stay unreadable", "cause", w.ring.Err())
	}
	w.pools = newPools()
	w.pools.count(w.metrics.limiterWait)
	w.lists, w.carried = newListing(), newCarried()
	w.hook = newPageHook(w.log, w.pageCommand, func(result string) { w.metrics.pages.WithLabelValues(result).Inc() })
	w.view = newView(w.log, w.changed)
	w.trusted, w.renewing, w.cuts = newTrusted(), newPacer(), newCuts()
	w.door = link.New(w.o.ID, (*door)(w), w.log)
	w.gate = wpower.NewGate()
	if w.drivers, err = wpower.NewRegistry(append(childDrivers(), ipmi.New(w.hostile), redfish.New(redfish.Keep))...); err != nil {
		return nil, err
	}
	w.register(kvm.New(w.door, w.epochOf))
	w.register(execprovider.New())
	return w, nil
}

// hostile is told of connections to a BMC on which the guard dropped packets that no
// healthy device on a lossy network sends.
func (w *Worker) hostile(t wpower.Target, r ipmi.Report) {
	for why, n := range r.Dropped() {
		if why.Hostile() {
			w.metrics.hostile.WithLabelValues(why.String()).Add(float64(n))
		}
	}
	w.log.Warn("hostile packets from the BMC's address were dropped", "host", t.Host, "device", t.Device, "count", r.Hostile())
	w.mu.Lock()
	o := w.owners[t.Host]
	w.mu.Unlock()
	if o != nil {
		o.in.put("", hostileMsg{t.Device, int(r.Hostile())})
	}
}

// mirrorPrefixes are what every worker keeps a copy of: the small records of all hosts,
// so that a takeover reads nothing and any worker answers operators.
var mirrorPrefixes = []string{
	leases.ConfigGenerationKey(), leases.WorkersPrefix, leases.DrainsPrefix, leases.SlotsPrefix, leases.EndsPrefix, leases.PartitionsPrefix, leases.AreasPrefix, leases.BudgetsPrefix,
	leases.HostsPrefix, leases.OpsPrefix, leases.SecretsPrefix, leases.SettingsPrefix, leases.ProfilesPrefix,
	leases.PoolsPrefix, leases.CommandsPrefix, leases.LinksPrefix, leases.IndicesPrefix, leases.HooksPrefix, leases.CursorsPrefix,
}

func (w *Worker) pageCommand() (string, time.Duration) {
	e := w.view.effective("", "", time.Now())
	return e.String("page.exec"), e.Duration("page.exec.timeout")
}

func (w *Worker) register(p provider.Provider) { w.providers[p.Describe().Kind] = p }

// Run works until ctx ends: it claims slots, owns hosts and answers agents and
// operators. It gives its slots back before it returns. Errors: a port that is in use,
// an etcd that refuses us; an etcd that is only away is waited for.
func (w *Worker) Run(ctx context.Context) error {
	apiL, err := listen(ctx, "listenAPI", w.o.ListenAPI, w.o.APIListener)
	if err != nil {
		return err
	}
	defer closeQuietly(apiL)
	agentsL, err := listen(ctx, "listenAgents", w.o.ListenAgents, w.o.AgentsListener)
	if err != nil {
		return err
	}
	defer closeQuietly(agentsL)
	w.apiAddr, w.agentsAddr = orElse(w.o.AdvertiseAPI, apiL.Addr().String()), orElse(w.o.AdvertiseAgents, agentsL.Addr().String())

	w.client, err = w.dialEtcd(ctx)
	switch {
	case errors.Is(err, leases.ErrAway): // and ctx has ended
		return nil
	case err != nil:
		return fmt.Errorf("connect to etcd: %w", w.wire.explain(err))
	}
	defer w.client.Close()
	defer w.drivers.Close()
	conf, err := w.client.EnsureConfig(ctx)
	if err != nil {
		return fmt.Errorf("read fleet configuration: %w", err)
	}
	w.slotN = conf.Slots
	w.mirror = w.client.NewMirror(slices.Concat(mirrorPrefixes, trustPrefixes)...)
	w.eventsMirror = w.client.NewMirror(leases.EventsPrefix, leases.EventsCutKey())
	w.mirror.OnBatch(w.changedAll)
	w.view.hold()
	for _, p := range mirrorPrefixes {
		w.mirror.Subscribe(p, w.view.apply)
	}
	w.mirror.Subscribe(leases.HooksPrefix, func(leases.Change) { w.look() })

	w.eventsMirror.Subscribe(leases.EventsPrefix, w.hooks.logged)
	for _, p := range trustPrefixes {
		w.mirror.Subscribe(p, w.trustChanged)
	}
	w.door.Issue((*issuer)(w))
	w.door.OnAbuse(w.agentCut)
	w.door.Answer((*peerDoor)(w))

	port := link.NewDoor(w.door, w.wire.own)
	httpS := &http.Server{
		Handler:           api.NewHandler((*backend)(w), api.HandlerOptions{Metrics: w.metrics.Handler(), Logger: w.log, Version: w.o.Version, Trust: w.wire.own, Forward: w.forward(), Keeper: (*backend)(w), Repeats: (*backend)(w), Hooks: (*backend)(w), Support: (*backend)(w), Rate: w.apiRate}),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.still.run(ctx) })
	g.Go(func() error { return w.mirror.Run(ctx) })
	g.Go(func() error { return w.eventsMirror.Run(ctx) })
	g.Go(func() error {
		select {
		case <-w.mirror.Synced():
			w.o.Loaded()
		case <-ctx.Done():
		}
		return nil
	})
	g.Go(func() error { return w.watchEtcd(ctx) })
	g.Go(func() error { return w.watchCertificates(ctx) })
	g.Go(func() error { return w.watchSecrets(ctx) })
	g.Go(func() error { return w.trim(ctx) })
	g.Go(func() error { return w.watchAreas(ctx) })
	g.Go(func() error { return w.tellChanges(ctx) })
	g.Go(func() error { return w.watchMoves(ctx) })
	g.Go(func() error { return w.watchTrust(ctx) })
	g.Go(func() error { return w.tellCuts(ctx) })
	g.Go(func() error { return w.trimTrust(ctx) })
	g.Go(func() error { return w.door.Run(ctx) })
	g.Go(func() error { return w.watchLists(ctx) })
	g.Go(func() error { return w.watchLinks(ctx) })
	g.Go(func() error { return w.hook.run(ctx) })
	// Not before its turn: in a restart the process before this one still accepts on the
	// same sockets, and can serve whom this one would have to send away.
	g.Go(func() error {
		if !w.turn(ctx) {
			return nil
		}
		if err := port.Serve(agentsL); err != nil && ctx.Err() == nil {
			return fmt.Errorf("serve agents: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		if !w.turn(ctx) {
			return nil
		}
		if err := w.serveAPI(apiL, httpS); err != nil && !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve operators: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		w.door.Close()
		port.Stop()
		return httpS.Close()
	})
	g.Go(func() error { return w.member(ctx) })
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// dialEtcd waits for an etcd that is only away.
func (w *Worker) dialEtcd(ctx context.Context) (*leases.Client, error) {
	for {
		c, err := leases.Dial(ctx, w.wire.etcdConfig(w.o.Etcd, w.log))
		if !errors.Is(err, leases.ErrAway) || ctx.Err() != nil {
			return c, err
		}
		w.log.Warn("etcd cannot be reached, trying again", "cause", err)
	}
}

func listen(ctx context.Context, field, addr string, open net.Listener) (net.Listener, error) {
	if open != nil {
		return open, nil
	}
	if addr == "" {
		return nil, fmt.Errorf("%s: empty, allowed is host:port", field)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %q: %w", field, addr, err)
	}
	return l, nil
}

func closeQuietly(l net.Listener) { _ = l.Close() } // already closed by its server in the usual case

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// record is this worker's entry in workers/<id>.
func (w *Worker) record(state string) v1.Worker {
	return v1.Worker{
		ID: w.o.ID, API: w.apiAddr, Agents: w.agentsAddr, Zone: w.o.Zone, Weight: w.o.Weight,
		State: state, Since: time.Now().UTC(), Started: w.started, PID: os.Getpid(), Version: w.o.Version,
	}
}

// changed is told of every change in the view, from the mirror's goroutine.
func (w *Worker) changed(kind, id string) {
	switch kind {
	case "workers", "drains", "slots", "host-spec", "indices", "settings":
		signal(w.lists.kick)
	}
	switch kind {
	case "workers", "slots", "host-spec":
		w.carried.reowned()
	}
	if kind == "slots" {
		signal(w.moved)
	}
	switch kind {
	case "workers", "slots", "ends":
		signal(w.told)
	}
	switch kind {
	case "workers", "drains", "slots", "ends", "host-spec", "generation":
		w.stirred = true
	case "budgets":
		w.budgetChanged(id)
		return
	case "areas":
		w.areaChanged(id)
		return
	case "secrets":
		w.secretsVersion.Add(1)
		w.wakeOwner(id)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch kind {
	case "host-spec":
		if o := w.owners[id]; o != nil {
			o.in.put("spec", specChanged{})
		}
	case "links":
		if w.owners[id] != nil { // a write of which nobody heard may have landed after a newer one
			w.carried.linked(id)
		}
	case "settings", "profiles", "partition-spec":
		w.applyPools(w.view.effective("", "", time.Now()))
		for _, o := range w.owners {
			o.in.put("policy", policyChanged{})
			o.commands.policyChanged()
		}
		for _, p := range w.parts {
			p.wake()
		}
	}
}

// changedAll is told when a batch of changes is in the view: a worker's end and its registration,
// and the slots of a transaction, change together and are looked at together, once.
func (w *Worker) changedAll() {
	if w.stirred {
		w.stirred = false
		w.look()
	}
}

// look lets the reign look at everything anew.
func (w *Worker) look() {
	signal(w.kick)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// epochOf is the epoch of the slot of a host, for requests to its agent.
func (w *Worker) epochOf(host string) *agentpb.Epoch {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.owners[host]; o != nil {
		return o.epoch
	}
	return nil
}

func wireEpoch(s *leases.Session, e leases.Epoch) *agentpb.Epoch {
	return &agentpb.Epoch{Generation: e.Generation, Revision: e.Revision, Cluster: strconv.FormatUint(s.ClusterID(), 16)}
}
