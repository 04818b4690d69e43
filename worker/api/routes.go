// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Param is one parameter of a route, in the query unless it says otherwise.
type Param struct {
	Name, Doc string
	Many      bool // may be given several times
	Header    bool // it is a header
}

// Route is one row of the API: the mux, who may call it, its parameters, the reference and
// the OpenAPI document are made of it. A path may end in `{path...}:verb`, for names that
// contain slashes. What every row of a kind has is not written in it, see Params.
type Route struct {
	Method, Path string
	Scope        string // what a caller must be allowed to, see roles; "" for whoever is admitted
	In, Out      any    // zero values of the body's and the answer's type; nil: none; Out may be an Either
	Query        []Param
	Summary      string

	handler func(*call) error
}

// Either is the answer of a route whose dry run answers something else.
type Either struct{ Done, Dry any }

// Changes says whether the route changes something.
func (r *Route) Changes() bool { return r.Method != http.MethodGet }

// Answers are the zero values of what the route answers: done, and as a dry run. nil: none.
func (r *Route) Answers() (done, dry any) {
	switch e, ok := r.Out.(Either); {
	case ok:
		return e.Done, e.Dry
	case r.Out == nil && r.Changes():
		return nil, v1.DryRun{}
	}
	return r.Out, r.Out
}

// Params are all parameters of the route: those of its row; every change knows a dry run,
// and every POST, which may act twice when it is repeated, an Idempotency-Key.
func (r *Route) Params() []Param {
	out := slices.Clone(r.Query)
	add := func(p Param) {
		if !slices.ContainsFunc(out, func(have Param) bool { return have.Name == p.Name }) {
			out = append(out, p)
		}
	}
	if r.Changes() {
		add(dryParam)
	}
	if r.Method == http.MethodPost {
		add(keyParam)
	}
	return out
}

// Knows says whether the route has a parameter.
func (r *Route) Knows(name string) bool {
	return slices.ContainsFunc(r.Params(), func(p Param) bool { return p.Name == name })
}

var (
	pageParams = []Param{
		{Name: "limit", Doc: "page size, 1 to 10000, default 5000"},
		{Name: "after", Doc: "the field `next` of the page before"},
	}
	watchParam  = Param{Name: "watch", Doc: "`true`: server-sent events instead of a list"}
	dryParam    = Param{Name: "dryRun", Doc: "`true`: check everything and answer what would come of it, change nothing"}
	keyParam    = Param{Name: keyHeader, Header: true, Doc: "1 to 200 visible characters: the same request again, at any worker, within a day, is not carried out again but answered as the first was"}
	matchParams = []Param{
		{Name: "If-Match", Header: true, Doc: "an ETag: only if that is what is there"},
		{Name: "If-None-Match", Header: true, Doc: "`*`: only if it does not exist"},
	}
	matchParam  = matchParams[:1]
	scopeParam  = Param{Name: "scope", Doc: "`global` (default), `zone/…`, `pod/…`, `cluster/…`, `host/…`"}
	eventParams = []Param{
		{Name: "host", Doc: "events of this host"},
		{Name: "partition", Doc: "events of this partition and those below it"},
		{Name: "type", Doc: "events of this type"},
		{Name: "severity", Doc: "`info`, `warning` or `page`"},
		{Name: "since", Doc: "RFC 3339 time, or a duration back from now such as `2h`"},
		{Name: "after", Doc: "a revision: only later events"},
		{Name: "limit", Doc: "page size, 1 to 10000, default 5000"},
	}
	planParams = []Param{
		{Name: "without", Doc: "as if this worker owned nothing", Many: true},
		{Name: "add", Doc: "`W`, `W:zone` or `W:zone:weight`: as if this worker took part, a new one or one that is drained", Many: true},
	}
	forceParam    = Param{Name: "force", Doc: "`true`: an instance may be on a host that placement refuses"}
	commandParams = []Param{
		{Name: "host", Doc: "commands of this host"},
		{Name: "state", Doc: "commands in this state"},
		{Name: "open", Doc: "`true`: only those that have not ended"},
	}
	hostParams = []Param{
		{Name: "partition", Doc: "hosts of this partition and those below it"},
		{Name: "state", Doc: "HA states, comma-separated"},
		{Name: "labels", Doc: "`a=b,c!=d,e in (x,y),f,!g`"},
		{Name: "sort", Doc: "`id` (default), `state`, `since`, `partition`, `power` or `owner`; with a leading `-` downwards"},
	}
)

// Routes is the whole API.
var Routes = append([]Route{
	{"GET", "/v1/hosts", "hosts:read", nil, v1.List[v1.Host]{}, join(hostParams, pageParams, watchParam), "List or watch hosts.", listHosts},
	{"GET", "/v1/hosts/{id}", "hosts:read", nil, v1.Host{}, nil, "One host, with live facts from its owner.", getHost},
	{"PUT", "/v1/hosts/{id}", "inventory:write", v1.HostSpec{}, v1.Host{}, matchParams, "Declare a host.", putHost},
	{"DELETE", "/v1/hosts/{id}", "inventory:write", nil, nil, matchParam, "Forget a host.", deleteHost},
	{"GET", "/v1/hosts/{id}/explain", "hosts:read", nil, v1.Explanation{}, nil, "Why a host is as it is, what holds, what comes next.", explainHost},
	{"POST", "/v1/hosts/{id}/maintenance", "hosts:write", v1.Switch{}, v1.Host{}, nil, "Maintenance on or off.", setHost("maintenance")},
	{"POST", "/v1/hosts/{id}/ha", "ha:write", v1.Switch{}, v1.Host{}, nil, "HA of one host wanted or not.", setHost("ha")},
	{"POST", "/v1/hosts/{id}/enabled", "hosts:write", v1.Switch{}, v1.Host{}, nil, "Host enabled or not.", setHost("enabled")},
	{"POST", "/v1/hosts/{id}/orders", "power:write", v1.OrderRequest{}, Either{v1.OrderResult{}, v1.Plan{}}, nil, "Give an order about a host. Carried out by the host's owner.", orderHost},

	{"GET", "/v1/hosts/{id}/devices/{device}/secret", "hosts:read", nil, v1.SecretStatus{}, nil, "What is on record of a device's sealed secret: set or not, key, when, by whom. Never the secret.", getSecret},
	{"PUT", "/v1/hosts/{id}/devices/{device}/secret", "secrets:write", v1.SecretRequest{}, v1.SecretStatus{}, matchParams, "Store new credentials of a device, sealed, once the device has accepted them. It is never read back. Carried out by the host's owner.", putSecret},
	{"DELETE", "/v1/hosts/{id}/devices/{device}/secret", "secrets:write", nil, nil, matchParam, "Forget a device's sealed secret.", deleteSecret},
	{"GET", "/v1/secrets", "hosts:read", nil, v1.List[v1.SecretStatus]{}, pageParams, "List the devices that have a sealed secret or refer to one.", listSecrets},
	{"POST", "/v1/secrets/reseal", "secrets:write", v1.ResealRequest{}, v1.ResealResult{}, nil, "Seal secrets anew under the newest key, some at a time: repeat it until none is left. Refused while some worker does not have that key, unless forced.", resealSecrets},
	{"GET", "/v1/hosts/{id}/power", "hosts:read", nil, v1.PowerExplanation{}, nil, "Which power device would be used for a host, at which level, and why; with all that is effective and who said so.", explainPower},
	{"GET", "/v1/power/profile", "hosts:read", nil, v1.PowerProfile{}, []Param{scopeParam}, "Power profile as it is effective at a scope: what declarations of hosts leave out.", getProfile},
	{"PATCH", "/v1/power/profile", "settings:write", v1.ProfileChange{}, v1.PowerProfile{}, join([]Param{scopeParam}, matchParams), "Set and take back fields of the power profile of a scope, all or none; the answer names the hosts that it reaches.", patchProfile},

	{"GET", "/v1/partitions", "hosts:read", nil, v1.List[v1.Partition]{}, pageParams, "List zones, pods and clusters.", listPartitions},
	{"GET", "/v1/partitions/{path...}", "hosts:read", nil, v1.Partition{}, nil, "One zone, pod or cluster.", getPartition},
	{"PUT", "/v1/partitions/{path...}", "inventory:write", v1.PartitionSpec{}, v1.Partition{}, matchParams, "Declare a partition.", putPartition},
	{"GET", "/v1/partitions/{path...}:explain", "hosts:read", nil, v1.Explanation{}, nil, "Why a partition is as it is.", byPath(Backend.ExplainPartition)},
	{"POST", "/v1/partitions/{path...}:ha", "ha:write", v1.Switch{}, v1.Partition{}, nil, "HA wanted here or not.", setPartition("ha")},
	{"POST", "/v1/partitions/{path...}:enabled", "hosts:write", v1.Switch{}, v1.Partition{}, nil, "Partition enabled or not.", setPartition("enabled")},

	{"GET", "/v1/pools", "hosts:read", nil, v1.List[v1.Pool]{}, pageParams, "List storage pools.", listResources(Backend.Pools)},
	{"GET", "/v1/pools/{id}", "hosts:read", nil, v1.Pool{}, nil, "One pool.", getResource(Backend.Pools)},
	{"PUT", "/v1/pools/{id}", "hosts:write", v1.Pool{}, v1.Pool{}, join([]Param{forceParam}, matchParams), "Declare a pool.", putResource(Backend.Pools)},
	{"DELETE", "/v1/pools/{id}", "hosts:write", nil, nil, matchParam, "Forget a pool; nothing is deleted from a pool.", deleteResource(Backend.Pools)},
	{"GET", "/v1/volumes", "hosts:read", nil, v1.List[v1.Volume]{}, pageParams, "List volumes.", listResources(Backend.Volumes)},
	{"GET", "/v1/volumes/{id}", "hosts:read", nil, v1.Volume{}, nil, "One volume.", getResource(Backend.Volumes)},
	{"PUT", "/v1/volumes/{id}", "hosts:write", v1.Volume{}, v1.Volume{}, join([]Param{forceParam}, matchParams), "Declare a volume.", putResource(Backend.Volumes)},
	{"DELETE", "/v1/volumes/{id}", "hosts:write", nil, nil, matchParam, "Forget a volume; nothing is deleted from a pool.", deleteResource(Backend.Volumes)},
	{"GET", "/v1/templates", "hosts:read", nil, v1.List[v1.Template]{}, pageParams, "List templates.", listResources(Backend.Templates)},
	{"GET", "/v1/templates/{id}", "hosts:read", nil, v1.Template{}, nil, "One template.", getResource(Backend.Templates)},
	{"PUT", "/v1/templates/{id}", "hosts:write", v1.Template{}, v1.Template{}, join([]Param{forceParam}, matchParams), "Declare a template.", putResource(Backend.Templates)},
	{"DELETE", "/v1/templates/{id}", "hosts:write", nil, nil, matchParam, "Forget a template; nothing is deleted from a pool.", deleteResource(Backend.Templates)},
	{"GET", "/v1/instances", "hosts:read", nil, v1.List[v1.Instance]{}, pageParams, "List instances.", listResources(Backend.Instances)},
	{"GET", "/v1/instances/{id}", "hosts:read", nil, v1.Instance{}, nil, "One instance.", getResource(Backend.Instances)},
	{"PUT", "/v1/instances/{id}", "hosts:write", v1.Instance{}, v1.Instance{}, join([]Param{forceParam}, matchParams), "Declare an instance.", putResource(Backend.Instances)},
	{"DELETE", "/v1/instances/{id}", "hosts:write", nil, nil, matchParam, "Forget an instance; nothing is deleted from a pool.", deleteResource(Backend.Instances)},
	{"GET", "/v1/commands", "hosts:read", nil, v1.List[v1.Command]{}, join(commandParams, pageParams), "List commands, oldest first.", listCommands},
	{"POST", "/v1/commands", "commands:write", v1.CommandRequest{}, v1.Command{}, nil, "Ask for a copy or a migration. The answer comes when it is on record; it is carried out by the agent of its host.", newCommand},
	{"GET", "/v1/commands/{id}", "hosts:read", nil, v1.Command{}, nil, "One command with the steps its agent wrote down; its progress from its host's owner.", getCommand},
	{"GET", "/v1/commands/{id}/explain", "hosts:read", nil, v1.Explanation{}, nil, "Why a command is as it is, what was seen, what comes next.", byID(Backend.ExplainCommand)},
	{"POST", "/v1/commands/{id}/cancel", "commands:write", v1.CommandOrder{}, v1.Command{}, nil, "End a command where it can be ended.", orderCommand("cancel")},
	{"POST", "/v1/commands/{id}/reconcile", "commands:write", v1.CommandOrder{}, v1.Command{}, nil, "Look now what is so, with all attempts anew.", orderCommand("reconcile")},
	{"POST", "/v1/commands/{id}/resolve", "commands:write", v1.CommandOrder{}, v1.Command{}, nil, "State on your own responsibility what came of a command; its resources take the next one.", orderCommand("resolve")},

	{"GET", "/v1/workers", "workers:read", nil, v1.List[v1.Worker]{}, pageParams, "List the members of the control plane, and those drained that are not running. Links and lease come from each worker itself; one that does not answer within a second is `unknown` there.", listWorkers},
	{"GET", "/v1/workers/{id}", "workers:read", nil, v1.Worker{}, nil, "One worker.", getWorker},
	{"POST", "/v1/workers/{id}/drain", "workers:write", v1.DrainRequest{}, Either{v1.Worker{}, v1.FleetPlan{}}, nil, "Let a worker hand over all it owns and take nothing, also after a restart. Refused for the last that is ready, unless forced.", drainWorker(true)},
	{"POST", "/v1/workers/{id}/undrain", "workers:write", v1.DrainRequest{}, Either{v1.Worker{}, v1.FleetPlan{}}, nil, "Let a drained worker take its share again.", drainWorker(false)},
	{"GET", "/v1/plan", "workers:read", nil, v1.FleetPlan{}, planParams, "What would move between workers, nothing is changed. Without parameters: what is to move now.", planFleet},
	{"GET", "/v1/agents", "hosts:read", nil, v1.List[v1.Agent]{}, join([]Param{{Name: "algorithm", Doc: "`ring`, `static`, `roundrobin` or `shuffle`: as if this one were set"}}, pageParams), "Where agents belong, by their lists of workers, and which worker holds their link.", listAgents},
	{"POST", "/v1/hosts/{id}/rebalance", "hosts:write", nil, v1.Agent{}, nil, "Ask an agent to move to the preferred worker of its list now. Carried out by the host's owner.", rebalanceAgent},
	{"POST", "/v1/etcd/generation", "settings:write", v1.GenerationRequest{}, v1.Generation{}, nil, "Raise the generation of the etcd data after a restore, above everything agents have reported: all workers open new sessions, and agents obey them again.", raiseGeneration},
	{"GET", "/v1/incidents", "hosts:read", nil, v1.List[v1.Incident]{}, join([]Param{{Name: "host", Doc: "incidents of this host"}}, pageParams), "List incidents, newest first.", listIncidents},
	{"GET", "/v1/incidents/{id}", "hosts:read", nil, v1.Incident{}, nil, "One incident with its ledger.", byID(Backend.Incident)},
	{"GET", "/v1/incidents/{id}/explain", "hosts:read", nil, v1.Explanation{}, nil, "Why an incident is as it is, or ended as it did, and what comes next.", explainIncident},
	{"GET", "/v1/incidents/{id}/export", "hosts:read", nil, v1.IncidentExport{}, nil, "All that is kept of an incident in one object, without secrets: checks, guards with values and limits, packets, proof, operators, and the recorded inputs for a replay.", byID(Backend.ExportIncident)},
	{"GET", "/v1/areas", "hosts:read", nil, v1.List[v1.Area]{}, pageParams, "List racks, switches, PDUs, pools, clusters, pods and zones that are in a storm, or were.", listAreas},
	{"GET", "/v1/areas/{path...}", "hosts:read", nil, v1.Area{}, nil, "One area: its last storm.", byPath(Backend.Area)},
	{"GET", "/v1/budgets", "hosts:read", nil, v1.List[v1.Budget]{}, join([]Param{{Name: "scope", Doc: "the budget of this scope and those below it; default all"}}, pageParams), "List power-down budgets: of all zones, pods and clusters, and of hosts that spent some.", listBudgets},
	{"POST", "/v1/budgets/{path...}:reset", "ha:write", v1.BudgetRequest{}, v1.Budget{}, nil, "Forget what a budget (`host/…`, `cluster/…`, `pod/…`, `zone/…`) has spent and open it again, with a reason.", changeBudget(false)},
	{"POST", "/v1/budgets/{path...}:grant", "ha:write", v1.BudgetRequest{}, v1.Budget{}, nil, "Add slots to a budget for a while and open it again, with a reason.", changeBudget(true)},
	{"GET", "/v1/events", "events:read", nil, v1.List[v1.Event]{}, join(eventParams, nil, watchParam), "List or watch events, oldest first. A watch goes on after `Last-Event-ID`; it repeats the events of that revision.", listEvents},

	{"GET", "/v1/settings", "settings:read", nil, v1.List[v1.Setting]{}, join([]Param{scopeParam}, pageParams), "Settings as they are effective at a scope.", listSettings},
	{"GET", "/v1/settings/{name}", "settings:read", nil, v1.Setting{}, []Param{scopeParam}, "One setting as it is effective at a scope. Its ETag is that of the value at that very scope; none where there is none.", getSetting},
	{"PUT", "/v1/settings/{name}", "settings:write", v1.SettingRequest{}, v1.Setting{}, join([]Param{scopeParam}, matchParams), "Set a setting at a scope.", putSetting},
	{"DELETE", "/v1/settings/{name}", "settings:write", nil, v1.Setting{}, join([]Param{scopeParam, reasonParam}, matchParam), "Take a setting back at a scope.", deleteSetting},

	{"POST", "/v1/ha/arm", "ha:write", v1.ArmRequest{}, v1.Setting{}, nil, "Let automation act at a scope.", arm(true)},
	{"POST", "/v1/ha/disarm", "ha:write", v1.ArmRequest{}, v1.Setting{}, nil, "Forbid automation to act at a scope, for good or for a while.", arm(false)},
	{"GET", "/v1/allocate", "hosts:read", nil, v1.List[v1.Candidate]{}, append([]Param{{Name: "partition", Doc: "only hosts below this partition"}, {Name: "ha", Doc: "`true`: the work needs HA"}}, pageParams...), "Rank the hosts that new work may go to, best first.", allocate},

	{"GET", "/v1/version", "", nil, v1.Version{}, nil, "Version of this worker.", getVersion},
	{"GET", "/v1/health", "", nil, v1.Health{}, nil, "Readiness and named warnings of this worker.", getHealth},
	{"GET", "/healthz", "", nil, nil, nil, "200 while the process serves.", healthz},
	{"GET", "/readyz", "", nil, nil, nil, "200 once synced and the lease is valid, else 503.", readyz},
	{"GET", "/metrics", "", nil, nil, nil, "Prometheus metrics.", metrics},
	{"GET", "/openapi.json", "", nil, nil, nil, "This API as an OpenAPI 3.1 document, made of the same table.", openAPI},
}, slices.Concat(trustRoutes, hookRoutes, supportRoutes)...)

// join puts parameters together without sharing memory with the lists above.
func join(a, b []Param, more ...Param) []Param {
	return append(append(append([]Param(nil), a...), b...), more...)
}
