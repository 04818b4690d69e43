// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// Facts are what the owner knows of one resource and its neighbours at one moment.
type Facts struct {
	Host        string
	Partition   string
	Labels      map[string]string
	Program     string   // setting ha.exec.program
	Sight       Sight    // what a Looker saw last
	MustNotRun  []string // its open rejoin gate, with Gate, its generation: to be confirmed
	Gate        string
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

// Descriptor says what a provider is.
type Descriptor struct {
	Kind       string    // as in host specs, e.g. "kvm"
	Resource   string    // what it knows, for people
	Partitions []string  // kinds of partition it works on, of PartitionKinds (ha.md §1)
	Needed     ha.Needed // what a partition must have for HA
}

// PartitionKinds are the kinds of partition, by the number of levels of their path.
var PartitionKinds = []string{"zone", "pod", "cluster"}

// Provider knows one type of resource. All calls are idempotent, safe for concurrent use
// and bound by ctx. Eligible and Health judge what is known already and do not block.
//
// What only some can do is one of the interfaces below, found by type assertion.
type Provider interface {
	Describe() Descriptor
	// Eligible says whether the resource can be protected at all, and why not.
	Eligible(Facts) (ha.Verdict, string)
	// Health judges what a resource reports of itself, or what a Looker saw of it.
	Health(Facts, *agentpb.Report) (ha.Verdict, string)
	// Activity asks others for side effects of the resource. It always returns a
	// check; whatever went wrong is in its reasons and makes it unknown.
	Activity(ctx context.Context, q Question) ha.Check
}

// Sampler is a provider whose idle rests on families of signals that were alive before.
type Sampler interface {
	// Baseline looks once at a healthy resource and says which families are alive now.
	Baseline(ctx context.Context, q Question) Baseline
}

// Looker is a provider of resources without an agent of ours: it looks for itself, once a
// ping interval, where agents would ping.
type Looker interface {
	// Look asks the resource. It always returns a sight; whatever went wrong is in its
	// reasons and makes it unknown. f.Sight is the last one, whose word on eligibility may
	// be handed on.
	Look(ctx context.Context, f Facts) Sight
}

// Checker is a provider that can be configured wrongly.
type Checker interface {
	// Check says what is wrong with how a resource was declared and set, before it is
	// believed; it looks at files of this machine and asks nobody.
	Check(Facts) error
}

// Finding is one verdict with its reason.
type Finding struct {
	Verdict ha.Verdict
	Reason  string
}

// Sight is what a Looker saw of a resource.
type Sight struct {
	Asked    time.Time // when it was asked: what it saw was so then or later; zero: never
	Health   Finding
	Eligible Finding
	EligAt   time.Time // when Eligible was asked
	// With a pass: which run of the resource this is (ha.md §1, boot id), what runs on it,
	// and the generation of the rejoin gate that it confirms.
	Boot      string
	Instances []string
	Gate      string
}

// Missing stands for a provider that a worker does not know: nothing can be said of its
// resources, and so nothing is done about them.
type Missing struct {
	Kind  string
	Known []string
}

// Describe implements Provider.
func (m Missing) Describe() Descriptor {
	return Descriptor{Kind: m.Kind, Resource: "not known to this worker", Partitions: PartitionKinds}
}

func (m Missing) why() string {
	return fmt.Sprintf("provider %q is not known to this worker; it knows %s", m.Kind, strings.Join(m.Known, ", "))
}

// Eligible implements Provider.
func (m Missing) Eligible(Facts) (ha.Verdict, string) { return ha.Fail, m.why() }

// Health implements Provider.
func (m Missing) Health(Facts, *agentpb.Report) (ha.Verdict, string) { return ha.Unknown, m.why() }

// Activity implements Provider.
func (m Missing) Activity(_ context.Context, q Question) ha.Check {
	return ha.Check{ID: q.ID, Asked: q.Asked, Done: time.Now().UTC(), Verdict: ha.Unknown, Reason: m.why()}
}

// Asker carries a request to the agent of a host.
type Asker interface {
	Ask(ctx context.Context, host string, r *agentpb.Request) (*agentpb.Answer, error)
}
