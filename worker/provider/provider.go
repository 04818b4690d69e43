// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// Facts are what the owner knows of one resource and its neighbours at one moment.
type Facts struct {
	Host        string
	Pools       []string // shared pools on record
	Probes      []string // addresses of its kernel; a fragment names the network, see Network
	Local       bool     // setting ha.kvm.local: a host without shared pools may be protected
	PowerOn     bool     // some power level reads ON
	Instances   []*agentpb.Instance
	PowerTested bool   // some power level once passed its test
	PowerWhy    string // why not
	LinkAlive   bool   // its agent is linked and pings in time
	Baseline    Baseline
}

// Network splits a probe's address, such as icmp://10.1.0.7#storage, into what is probed
// and the network it is on; without a fragment that is management.
func Network(probe string) (address, network string) {
	address, network, named := strings.Cut(probe, "#")
	if !named || network == "" {
		network = Management
	}
	return address, network
}

// Management is the network that agents talk to workers over.
const Management = "management"

// Baseline says which families of signals were seen alive while the host was
// AVAILABLE; silence of a family never seen alive proves nothing (ha.md §5).
type Baseline struct {
	Disks bool `json:"disks,omitempty"`
	Probe bool `json:"probe,omitempty"`
}

// Reader is a neighbour that can be asked: linked, its own health passes.
type Reader struct {
	Host   string
	Pools  []string
	Domain string // failure domain, e.g. rack
}

// Question is one activity check.
type Question struct {
	ID      string
	Asked   time.Time
	Subject Facts
	Readers []Reader
	Others  int // other hosts that are not FENCED, FAILED or in maintenance: with exactly one, its word is enough (ha.md §5)
	Window  time.Duration
	Max     int // readers to ask
	// Heard is when the host was heard last, by this worker's monotonic clock: what readers
	// remember of the time since then counts. Zero: only what they see from now on.
	Heard time.Time
	// Remember is for how long readers keep looking after this, for a later question; 0: they do not.
	Remember time.Duration
}

// Provider knows one type of resource. All calls are idempotent and bound by ctx.
type Provider interface {
	// Kind is the name used in host specs, e.g. "kvm".
	Kind() string
	// Eligible says whether the resource can be protected at all, and why not.
	Eligible(Facts) (ha.Verdict, string)
	// Health judges what a resource reports of itself.
	Health(Facts, *agentpb.Report) (ha.Verdict, string)
	// Activity asks others for side effects of the resource. It always returns a
	// check; whatever went wrong is in its reasons and makes it unknown.
	Activity(ctx context.Context, q Question) ha.Check
	// Baseline looks once at a healthy resource and says which families are alive now.
	Baseline(ctx context.Context, q Question) Baseline
}

// Asker carries a request to the agent of a host.
type Asker interface {
	Ask(ctx context.Context, host string, r *agentpb.Request) (*agentpb.Answer, error)
}
