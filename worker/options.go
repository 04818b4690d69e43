// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/leases"
)

// Options are a worker's bootstrap configuration. What may change while it runs is a
// setting in etcd instead.
type Options struct {
	ID     string // stable name, e.g. the pod's; one live worker per id
	Zone   string
	Weight int // share of slots relative to others, default 1

	Etcd []string
	// Certificate files: the worker's own, for every connection, and other ones for etcd
	// where etcd does not know those. They are read anew when they change.
	TLS, EtcdTLS trust.Files
	// InsecureLoopback is plaintext instead, with loopback addresses everywhere.
	InsecureLoopback bool

	ListenAPI, ListenAgents       string // host:port; port 0 takes a free one
	AdvertiseAPI, AdvertiseAgents string // default: the listening address

	LeaseTTL time.Duration // 3s to 60s, default 5s; a packet needs 2s of certain lease
	// RestartGrace is how long an orderly end keeps the slots for this worker's next
	// process, up to 5m; 0 gives them back at once.
	RestartGrace time.Duration
	// Loaded is called once, when the first copy of etcd's records is complete; nil: nobody cares.
	Loaded func()
	// Listeners that a parent process opened, instead of ListenAPI and ListenAgents.
	APIListener, AgentsListener net.Listener
	Parent                      Parent // the process above this one; nil: there is none that cares

	SecretsDir string // directory that `file:` references may point into
	KeyRing    string // file with the keys of sealed secrets (package sealed); read again when it changes
	Version    string
	Logger     *slog.Logger
}

// Parent is the process above a worker's, which knows for certain when that is dead and
// can put another in its place (package parent).
type Parent interface {
	// Ready tells it that this process knows all it needs to join the fleet.
	Ready()
	// Turn is closed when this process may accept connections and, once ready, join: at
	// once, or, where it replaces another, when that has ended.
	Turn() <-chan struct{}
	// OnSession tells it of each lease before anything is claimed under it.
	OnSession(boot string, lease int64)
}

// orphan stands for a parent that is not there: it is this worker's turn at once.
type orphan struct{ turn chan struct{} }

func newOrphan() orphan {
	o := orphan{make(chan struct{})}
	close(o.turn)
	return o
}

func (orphan) Ready()                  {}
func (o orphan) Turn() <-chan struct{} { return o.turn }
func (orphan) OnSession(string, int64) {}

// ErrOptions marks options that cannot be used; no restart will mend that.
var ErrOptions = errors.New("bad options")

const (
	defaultTTL = 5 * time.Second
	// minTTL is the shortest lease that is certain for the two seconds of one packet even
	// right before a renewal, a fifth of it later and less the margin for clocks. Under a
	// shorter one no packet would ever leave.
	minTTL = 3 * time.Second
)

// withDefaults fills what was left empty and names every wrong field.
func (o Options) withDefaults() (Options, error) {
	if o.Weight == 0 {
		o.Weight = 1
	}
	if o.LeaseTTL == 0 {
		o.LeaseTTL = defaultTTL
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Parent == nil {
		o.Parent = newOrphan()
	}
	if o.Loaded == nil {
		o.Loaded = func() {}
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	var errs []error
	if err := leases.CheckID("id", o.ID); err != nil {
		errs = append(errs, err)
	}
	if o.Zone != "" {
		if err := leases.CheckID("zone", o.Zone); err != nil {
			errs = append(errs, err)
		}
	}
	if len(o.Etcd) == 0 {
		errs = append(errs, errors.New("etcd: empty, at least one endpoint is needed"))
	}
	if o.Weight < 1 || o.Weight > 100 {
		errs = append(errs, fmt.Errorf("weight: %d, allowed are 1 to 100", o.Weight))
	}
	if o.LeaseTTL < minTTL || o.LeaseTTL > time.Minute || o.LeaseTTL%time.Second != 0 {
		errs = append(errs, fmt.Errorf("leaseTTL: %v, allowed are whole seconds from 3s to 1m", o.LeaseTTL))
	}
	if o.RestartGrace < 0 || o.RestartGrace > 5*time.Minute {
		errs = append(errs, fmt.Errorf("restartGrace: %v, allowed are 0s to 5m", o.RestartGrace))
	}
	errs = append(errs, o.checkWire()...)
	if len(errs) > 0 {
		return o, fmt.Errorf("%w: %w", ErrOptions, errors.Join(errs...))
	}
	return o, nil
}
