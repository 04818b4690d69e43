// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// HostWatch is how a watch of hosts begins and who is told.
type HostWatch struct {
	// After is the revision up to which the caller was told: it is told of hosts that changed
	// since, or were forgotten, or that the filter does not select any more (which it may not
	// have known). 0: of all that are there.
	After int64
	Host  func(v1.Host) error        // one is so now, or with Deleted gone
	UpTo  func(revision int64) error // all up to a revision was told
}

// HostFilter selects hosts. Empty fields select all.
type HostFilter struct {
	Partition string   // a path or a prefix of one
	States    []string // HA states
	Labels    string   // a=b,c!=d,e in (x,y)
}

// EventFilter selects events.
type EventFilter struct {
	Host, Partition, Type, Severity string
	After                           int64     // revision
	Since                           time.Time // zero: all that are kept
}

// Backend is what the operator API needs of a worker. Any worker answers reads from its
// mirror; orders about a host must reach its owner, see OwnerAPI. Errors that are a
// *v1.Problem are passed on as they are; `who` is the authenticated caller. Under a context
// with a DryRun a call checks all that it would check, answers what would come of it, and
// changes nothing.
type Backend interface {
	Hosts(ctx context.Context, f HostFilter) ([]v1.Host, error)
	Host(ctx context.Context, id string) (v1.Host, error)
	PutHost(ctx context.Context, who string, spec v1.HostSpec, ifRevision int64) (v1.Host, error) // ifRevision -1: whatever is there
	DeleteHost(ctx context.Context, who, id string, ifRevision int64) error
	ExplainHost(ctx context.Context, id string) (v1.Explanation, error)
	SetHost(ctx context.Context, who, id, what string, s v1.Switch) (v1.Host, error) // what: maintenance, ha, enabled
	PlanOrder(ctx context.Context, id string, o v1.OrderRequest) (v1.Plan, error)
	Order(ctx context.Context, who, id string, o v1.OrderRequest) (v1.OrderResult, error) // only at the owner

	Secret(ctx context.Context, host, device string) (v1.SecretStatus, error)
	Secrets(ctx context.Context) ([]v1.SecretStatus, error)
	PutSecret(ctx context.Context, who, host, device string, r v1.SecretRequest, ifRevision int64) (v1.SecretStatus, error) // a test only at the owner; keeps no part of r
	DeleteSecret(ctx context.Context, who, host, device string, ifRevision int64) error
	Reseal(ctx context.Context, who string, limit int) (v1.ResealResult, error)
	ExplainPower(ctx context.Context, id string) (v1.PowerExplanation, error)
	PowerProfile(ctx context.Context, scope string) (v1.PowerProfile, error) // effective at the scope
	ChangePowerProfile(ctx context.Context, who, scope string, c v1.ProfileChange, ifRevision int64) (v1.PowerProfile, error)

	Partitions(ctx context.Context) ([]v1.Partition, error)
	Partition(ctx context.Context, path string) (v1.Partition, error)
	PutPartition(ctx context.Context, who string, spec v1.PartitionSpec, ifRevision int64) (v1.Partition, error)
	SetPartition(ctx context.Context, who, path, what string, s v1.Switch) (v1.Partition, error) // what: ha, enabled
	ExplainPartition(ctx context.Context, path string) (v1.Explanation, error)

	Workers(ctx context.Context) ([]v1.Worker, error) // live facts of this one only, see WorkerAPI
	Worker(ctx context.Context, id string) (v1.Worker, error)
	DrainWorker(ctx context.Context, who, id string, on bool, r v1.DrainRequest) (v1.Worker, error)
	PlanDrain(ctx context.Context, id string, on bool, r v1.DrainRequest) (v1.FleetPlan, error) // refuses what DrainWorker would
	PlanFleet(ctx context.Context, without []string, add []v1.Joiner) (v1.FleetPlan, error)
	Agents(ctx context.Context, algorithm string) ([]v1.Agent, error)       // algorithm "": the one that is set
	RebalanceAgent(ctx context.Context, who, host string) (v1.Agent, error) // only at the owner
	RaiseGeneration(ctx context.Context, who string, r v1.GenerationRequest) (v1.Generation, error)
	Incidents(ctx context.Context, host string) ([]v1.Incident, error) // newest first; host "": all
	Incident(ctx context.Context, id string) (v1.Incident, error)
	ExplainIncident(ctx context.Context, id string) (v1.Explanation, error)
	ExportIncident(ctx context.Context, id string) (v1.IncidentExport, error) // no secrets
	Areas(ctx context.Context) ([]v1.Area, error)
	Area(ctx context.Context, area string) (v1.Area, error)
	Budgets(ctx context.Context, scope string) ([]v1.Budget, error)                                         // scope "": all
	ChangeBudget(ctx context.Context, who, scope string, grant bool, r v1.BudgetRequest) (v1.Budget, error) // else a reset
	Events(ctx context.Context, f EventFilter) ([]v1.Event, error)                                          // oldest first
	EventsKept(ctx context.Context, after int64) error                                                      // CodeCompacted where events after a revision are no longer kept
	WatchEvents(ctx context.Context, f EventFilter, fn func(v1.Event) error) error                          // replays after f.After, then follows until ctx ends
	WatchHosts(ctx context.Context, f HostFilter, w HostWatch) error                                        // until ctx ends

	Settings(ctx context.Context, scope string) ([]v1.Setting, error) // effective at the scope
	PutSetting(ctx context.Context, who, scope, name, value, reason string, expires time.Time, ifRevision int64) (v1.Setting, error)
	DeleteSetting(ctx context.Context, who, scope, name, reason string, ifRevision int64) (v1.Setting, error)
	Arm(ctx context.Context, who, scope string, s v1.Switch) (v1.Setting, error) // scope: global, zone/…, pod/…, cluster/…, host/…

	Pools() Shelf[v1.Pool]
	Volumes() Shelf[v1.Volume]
	Templates() Shelf[v1.Template]
	Instances() Shelf[v1.Instance]

	CommandHost(ctx context.Context, r v1.CommandRequest) (host string, err error)             // whose owner records it
	NewCommand(ctx context.Context, who, host string, r v1.CommandRequest) (v1.Command, error) // only at the owner
	Commands(ctx context.Context, q v1.CommandQuery) ([]v1.Command, error)
	Command(ctx context.Context, id string) (v1.Command, error) // with progress only at the owner
	ExplainCommand(ctx context.Context, id string) (v1.Explanation, error)
	OrderCommand(ctx context.Context, who, id, verb string, o v1.CommandOrder) (v1.Command, error) // only at the owner; verb: v1.CommandVerbs

	Allocate(ctx context.Context, partition string, needHA bool) ([]v1.Candidate, error)

	// OwnerAPI is the base URL of the worker that owns the host and whether that is this
	// worker; an empty URL with own=false: nobody owns it now.
	OwnerAPI(host string) (url string, own bool)
	// WorkerAPI is the same for a worker itself.
	WorkerAPI(id string) (url string, own bool)
	Health() []Warning // named warnings of this worker
	Ready() error      // nil once synced and the lease is valid
}

// Warning is one named condition that operators should know of (worker/health.go).
type Warning struct {
	Code     string    `json:"code"`
	Severity string    `json:"severity"`
	Text     string    `json:"text"`
	Since    time.Time `json:"since"`
}
