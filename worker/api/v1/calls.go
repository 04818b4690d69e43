// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// orderTimeout is for orders that talk to a BMC before they are answered.
const orderTimeout = 75 * time.Second

// HostQuery selects hosts. Empty fields select all.
type HostQuery struct {
	Partition string   // a path or a prefix of one
	States    []string // HA states
	Labels    string   // a=b,c!=d,e in (x,y)
	Sort      string   // id, state, since, partition, power, owner; with a leading - downwards
}

func (q HostQuery) values() url.Values {
	v := url.Values{}
	set(v, "partition", q.Partition)
	set(v, "state", strings.Join(q.States, ","))
	set(v, "labels", q.Labels)
	set(v, "sort", q.Sort)
	return v
}

// EventQuery selects events. Empty fields select all that are kept.
type EventQuery struct {
	Host, Partition, Type, Severity string
	After                           int64 // revision: only later ones
	Since                           time.Time
}

func (q EventQuery) values() url.Values {
	v := url.Values{}
	set(v, "host", q.Host)
	set(v, "partition", q.Partition)
	set(v, "type", q.Type)
	set(v, "severity", q.Severity)
	if q.After > 0 {
		v.Set("after", strconv.FormatInt(q.After, 10))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	return v
}

func set(v url.Values, name, value string) {
	if value != "" {
		v.Set(name, value)
	}
}

func dryRun(on bool) url.Values {
	if !on {
		return nil
	}
	return url.Values{"dryRun": {"true"}}
}

func hostPath(id, rest string) string { return "/v1/hosts/" + url.PathEscape(id) + rest }

func partitionPath(path, verb string) string { return slashed("/v1/partitions/", path, verb) }

// slashed is the path of a name that contains slashes.
func slashed(base, name, verb string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return base + strings.Join(parts, "/") + verb
}

func get[T any](ctx context.Context, c *Client, path string, q url.Values) (T, error) {
	var out T
	err := c.do(ctx, request{method: http.MethodGet, path: path, query: q}, &out)
	return out, err
}

// all follows the pages of a list to its end.
func all[T any](ctx context.Context, c *Client, path string, q url.Values) ([]T, error) {
	if q == nil {
		q = url.Values{}
	}
	var out []T
	for {
		page, err := get[List[T]](ctx, c, path, q)
		if err != nil {
			return nil, err
		}
		out = append(out, page.Items...)
		if page.Next == "" {
			return out, nil
		}
		q.Set("after", page.Next)
	}
}

func post[T any](ctx context.Context, c *Client, path string, q url.Values, body any) (T, error) {
	var out T
	err := c.do(ctx, request{method: http.MethodPost, path: path, query: q, body: body}, &out)
	return out, err
}

// tell is post for what is answered with a secret.
func tell[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	var out T
	err := c.do(ctx, request{method: http.MethodPost, path: path, body: body, told: true}, &out)
	return out, err
}

// Hosts lists hosts, sorted by id unless q says otherwise.
func (c *Client) Hosts(ctx context.Context, q HostQuery) ([]Host, error) {
	return all[Host](ctx, c, "/v1/hosts", q.values())
}

// Host is one host, with its owner's live facts where the owner answers.
func (c *Client) Host(ctx context.Context, id string) (Host, error) {
	return get[Host](ctx, c, hostPath(id, ""), nil)
}

// PutHost declares a host. Revision -1: whatever is there; 0: it must not exist; else
// the revision it must have. With dry it is only checked.
func (c *Client) PutHost(ctx context.Context, spec HostSpec, revision int64, dry bool) (Host, error) {
	var out Host
	err := c.do(ctx, request{method: http.MethodPut, path: hostPath(spec.ID, ""), query: dryRun(dry), body: spec, revision: revision}, &out)
	return out, err
}

// DeleteHost forgets a host; revision as in PutHost.
func (c *Client) DeleteHost(ctx context.Context, id string, revision int64) error {
	return c.do(ctx, request{method: http.MethodDelete, path: hostPath(id, ""), revision: revision}, nil)
}

// ExplainHost says why a host is as it is, and what would change that.
func (c *Client) ExplainHost(ctx context.Context, id string) (Explanation, error) {
	return get[Explanation](ctx, c, hostPath(id, "/explain"), nil)
}

// SetHost turns one switch of a host: maintenance, ha or enabled.
func (c *Client) SetHost(ctx context.Context, id, what string, s Switch) (Host, error) {
	return post[Host](ctx, c, hostPath(id, "/"+url.PathEscape(what)), nil, s)
}

// PlanOrder says what an order would do; nothing is done.
func (c *Client) PlanOrder(ctx context.Context, id string, o OrderRequest) (Plan, error) {
	return post[Plan](ctx, c, hostPath(id, "/orders"), dryRun(true), o)
}

// Order gives an order about a host to its owner. A Problem with status 504 means that
// the outcome is unknown.
func (c *Client) Order(ctx context.Context, id string, o OrderRequest) (OrderResult, error) {
	var out OrderResult
	err := c.do(ctx, request{method: http.MethodPost, path: hostPath(id, "/orders"), body: o, timeout: orderTimeout}, &out)
	return out, err
}

// Partitions lists zones, pods and clusters.
func (c *Client) Partitions(ctx context.Context) ([]Partition, error) {
	return all[Partition](ctx, c, "/v1/partitions", nil)
}

// Partition is one zone, pod or cluster.
func (c *Client) Partition(ctx context.Context, path string) (Partition, error) {
	return get[Partition](ctx, c, partitionPath(path, ""), nil)
}

// PutPartition declares a partition; revision as in PutHost.
func (c *Client) PutPartition(ctx context.Context, spec PartitionSpec, revision int64) (Partition, error) {
	var out Partition
	err := c.do(ctx, request{method: http.MethodPut, path: partitionPath(spec.Path, ""), body: spec, revision: revision}, &out)
	return out, err
}

// SetPartition turns one switch of a partition: ha or enabled.
func (c *Client) SetPartition(ctx context.Context, path, what string, s Switch) (Partition, error) {
	return post[Partition](ctx, c, partitionPath(path, ":"+url.PathEscape(what)), nil, s)
}

// ExplainPartition says why a partition is as it is.
func (c *Client) ExplainPartition(ctx context.Context, path string) (Explanation, error) {
	return get[Explanation](ctx, c, partitionPath(path, ":explain"), nil)
}

// Workers lists the members of the control plane.
func (c *Client) Workers(ctx context.Context) ([]Worker, error) {
	return all[Worker](ctx, c, "/v1/workers", nil)
}

// Worker is one worker, with its own live facts where it answers.
func (c *Client) Worker(ctx context.Context, id string) (Worker, error) {
	return get[Worker](ctx, c, workerPath(id, ""), nil)
}

// DrainWorker lets a worker hand over all it owns and take nothing, until UndrainWorker.
// It answers once that is on record; the worker is drained when its state says so.
func (c *Client) DrainWorker(ctx context.Context, id string, r DrainRequest) (Worker, error) {
	return post[Worker](ctx, c, workerPath(id, "/drain"), nil, r)
}

// UndrainWorker lets a drained worker take its share again.
func (c *Client) UndrainWorker(ctx context.Context, id string, r DrainRequest) (Worker, error) {
	return post[Worker](ctx, c, workerPath(id, "/undrain"), nil, r)
}

// PlanDrain says what DrainWorker would move, and is refused where that would be.
func (c *Client) PlanDrain(ctx context.Context, id string, r DrainRequest) (FleetPlan, error) {
	return post[FleetPlan](ctx, c, workerPath(id, "/drain"), dryRun(true), r)
}

// PlanUndrain says what UndrainWorker would move.
func (c *Client) PlanUndrain(ctx context.Context, id string, r DrainRequest) (FleetPlan, error) {
	return post[FleetPlan](ctx, c, workerPath(id, "/undrain"), dryRun(true), r)
}

// RaiseGeneration raises the generation of the etcd data, after a restore; with dryRun it
// says what that would do.
func (c *Client) RaiseGeneration(ctx context.Context, r GenerationRequest, dry bool) (Generation, error) {
	return post[Generation](ctx, c, "/v1/etcd/generation", dryRun(dry), r)
}

// PlanFleet says what would move without some workers, or with more.
func (c *Client) PlanFleet(ctx context.Context, without []string, add []Joiner) (FleetPlan, error) {
	q := url.Values{"without": without}
	for _, j := range add {
		q.Add("add", j.String())
	}
	return get[FleetPlan](ctx, c, "/v1/plan", q)
}

func workerPath(id, rest string) string { return "/v1/workers/" + url.PathEscape(id) + rest }

// Incidents lists incidents, newest first; host "" means all.
func (c *Client) Incidents(ctx context.Context, host string) ([]Incident, error) {
	v := url.Values{}
	set(v, "host", host)
	return all[Incident](ctx, c, "/v1/incidents", v)
}

// Incident is one incident with its whole ledger.
func (c *Client) Incident(ctx context.Context, id string) (Incident, error) {
	return get[Incident](ctx, c, incidentPath(id, ""), nil)
}

// Areas lists areas that are in a storm or were, by name.
func (c *Client) Areas(ctx context.Context) ([]Area, error) {
	return all[Area](ctx, c, "/v1/areas", nil)
}

// Area is one of them.
func (c *Client) Area(ctx context.Context, area string) (Area, error) {
	return get[Area](ctx, c, slashed("/v1/areas/", area, ""), nil)
}

// Budgets lists power-down budgets: those of all zones, pods and clusters, and of the
// hosts that spent some; below a scope if it is not empty.
func (c *Client) Budgets(ctx context.Context, scope string) ([]Budget, error) {
	return all[Budget](ctx, c, "/v1/budgets", scopeOf(scope))
}

// ResetBudget forgets what a budget has spent and opens it again.
func (c *Client) ResetBudget(ctx context.Context, scope string, r BudgetRequest) (Budget, error) {
	return post[Budget](ctx, c, slashed("/v1/budgets/", scope, ":reset"), nil, r)
}

// GrantBudget adds slots to a budget for a while and opens it again.
func (c *Client) GrantBudget(ctx context.Context, scope string, r BudgetRequest) (Budget, error) {
	return post[Budget](ctx, c, slashed("/v1/budgets/", scope, ":grant"), nil, r)
}

// Events lists events, oldest first.
func (c *Client) Events(ctx context.Context, q EventQuery) ([]Event, error) {
	return all[Event](ctx, c, "/v1/events", q.values())
}

// Settings lists every setting as it is effective at a scope; "" is global.
func (c *Client) Settings(ctx context.Context, scope string) ([]Setting, error) {
	return all[Setting](ctx, c, "/v1/settings", scopeOf(scope))
}

// Setting is one setting as it is effective at a scope.
func (c *Client) Setting(ctx context.Context, scope, name string) (Setting, error) {
	return get[Setting](ctx, c, "/v1/settings/"+url.PathEscape(name), scopeOf(scope))
}

// PutSetting sets a value at a scope. With dry it is only checked.
func (c *Client) PutSetting(ctx context.Context, scope, name string, r SettingRequest, dry bool) (Setting, error) {
	q := scopeOf(scope)
	if dry {
		q.Set("dryRun", "true")
	}
	var out Setting
	err := c.do(ctx, request{method: http.MethodPut, path: "/v1/settings/" + url.PathEscape(name), query: q, body: r, revision: -1}, &out)
	return out, err
}

// DeleteSetting takes a value back; the answer is what is effective then.
func (c *Client) DeleteSetting(ctx context.Context, scope, name, reason string) (Setting, error) {
	q := scopeOf(scope)
	set(q, "reason", reason)
	var out Setting
	err := c.do(ctx, request{method: http.MethodDelete, path: "/v1/settings/" + url.PathEscape(name), query: q, revision: -1}, &out)
	return out, err
}

func scopeOf(scope string) url.Values {
	v := url.Values{}
	set(v, "scope", scope)
	return v
}

// Arm lets automation act at a scope.
func (c *Client) Arm(ctx context.Context, r ArmRequest) (Setting, error) {
	return post[Setting](ctx, c, "/v1/ha/arm", nil, r)
}

// Disarm forbids automation to act at a scope, for good or for a while.
func (c *Client) Disarm(ctx context.Context, r ArmRequest) (Setting, error) {
	return post[Setting](ctx, c, "/v1/ha/disarm", nil, r)
}

// Allocate ranks the hosts that new work may go to, best first (ha.md §8).
func (c *Client) Allocate(ctx context.Context, partition string, needHA bool) ([]Candidate, error) {
	v := url.Values{"ha": {strconv.FormatBool(needHA)}}
	set(v, "partition", partition)
	return all[Candidate](ctx, c, "/v1/allocate", v)
}

// Version is the version of the worker that answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return get[Version](ctx, c, "/v1/version", nil)
}

// Health is how the worker that answers is.
func (c *Client) Health(ctx context.Context) (Health, error) {
	return get[Health](ctx, c, "/v1/health", nil)
}
