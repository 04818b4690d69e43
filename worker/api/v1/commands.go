// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"net/url"
	"time"
)

// CommandKinds are what can be asked for; CommandStates where a command can stand.
var (
	CommandKinds  = []string{"copy", "migrate", "migrate-volume"}
	CommandStates = []string{"PENDING", "SENT", "STARTED", "PROCESSING", "PROCESSING_IN_BACKEND", "COMPLETED", "FAILED", "INTERRUPTED", "DANGLING", "RECONCILING", "RECONCILED", "NEEDS_OPERATOR"}
	CommandVerbs  = []string{"cancel", "reconcile", "resolve"}
)

// CommandRequest asks for a command. Exactly one of Volume, Template and Instance.
type CommandRequest struct {
	Kind     string `json:"kind"` // CommandKinds
	Volume   string `json:"volume,omitempty"`
	Template string `json:"template,omitempty"`
	Instance string `json:"instance,omitempty"`
	Pool     string `json:"pool,omitempty"` // that it goes to; of migrate: that its volumes go to, empty: they stay
	Host     string `json:"host,omitempty"` // of migrate: the target; of copies: the host that does it, empty: one that has both pools
	As       string `json:"as,omitempty"`   // of copy: the new volume; of a template empty: one more copy of the template

	Key      string `json:"key,omitempty"`            // idempotency: the same key again is the same command
	Deadline string `json:"deadline,omitempty"`       // duration; it is cancelled then
	Rate     int64  `json:"bytesPerSecond,omitempty"` // 0: no bound
	Force    bool   `json:"force,omitempty"`          // also to a host that placement refuses
	Reason   string `json:"reason,omitempty"`
}

// CommandOrder is an operator's word about a command: one of CommandVerbs.
type CommandOrder struct {
	Reason    string `json:"reason,omitempty"`
	Completed *bool  `json:"completed,omitempty"` // of resolve: it did, or it did not, what was asked for
}

// CommandItem is one file that a command moves or copies.
type CommandItem struct {
	Volume string `json:"volume"`
	As     string `json:"as,omitempty"`
	From   Place  `json:"from"`
	To     Place  `json:"to"`
}

// CommandOutcome is what came of a command.
type CommandOutcome struct {
	Done bool      `json:"done"`
	Why  string    `json:"why"`
	By   string    `json:"by"` // agent, evidence, deadline or the operator
	At   time.Time `json:"at"`
}

// CommandProgress is how far it is; only from the owner of its host.
type CommandProgress struct {
	Done  int64  `json:"done"`  // bytes
	Total int64  `json:"total"` // bytes; 0 while unknown
	Rate  int64  `json:"rate"`  // bytes per second
	ETA   string `json:"eta,omitempty"`
}

// CommandStep is one step that the agent wrote down.
type CommandStep struct {
	Seq   int       `json:"seq"`
	At    time.Time `json:"at"` // by the agent's clock
	State string    `json:"state"`
	What  string    `json:"what"`
}

// Command is a command as it is.
type Command struct {
	ID       string           `json:"id"`
	Kind     string           `json:"kind"`
	Host     string           `json:"host"`
	Target   string           `json:"target,omitempty"`
	Instance string           `json:"instance,omitempty"`
	Live     bool             `json:"live,omitempty"` // its instance runs
	Items    []CommandItem    `json:"items,omitempty"`
	State    string           `json:"state"`
	Since    time.Time        `json:"since"`
	Reason   string           `json:"reason"`
	By       string           `json:"by"`
	Created  time.Time        `json:"created"`
	Deadline time.Time        `json:"deadline,omitzero"`
	Key      string           `json:"key,omitempty"`
	Attempts int              `json:"attempts,omitempty"` // looks since it was interrupted
	Outcome  *CommandOutcome  `json:"outcome,omitempty"`
	Left     []string         `json:"left,omitempty"` // still to be tidied
	Ended    bool             `json:"ended"`          // its resources take the next command
	EndedAt  time.Time        `json:"endedAt,omitzero"`
	Progress *CommandProgress `json:"progress,omitempty"`
	Steps    []CommandStep    `json:"steps,omitempty"` // only of one command
	Revision int64            `json:"revision,omitempty"`
}

// CommandQuery selects commands. Empty fields select all that are kept.
type CommandQuery struct {
	Host, State string
	Open        bool // only those that have not ended
}

func (q CommandQuery) values() url.Values {
	v := url.Values{}
	set(v, "host", q.Host)
	set(v, "state", q.State)
	if q.Open {
		v.Set("open", "true")
	}
	return v
}

func commandPath(id, rest string) string { return "/v1/commands/" + url.PathEscape(id) + rest }

// NewCommand asks for a command; the answer comes when it is on record. A Problem with
// status 504: it may be on record; the same Key again tells.
func (c *Client) NewCommand(ctx context.Context, r CommandRequest) (Command, error) {
	return post[Command](ctx, c, "/v1/commands", nil, r)
}

// Commands lists commands, oldest first.
func (c *Client) Commands(ctx context.Context, q CommandQuery) ([]Command, error) {
	return all[Command](ctx, c, "/v1/commands", q.values())
}

// Command is one command, with its owner's live facts where the owner answers.
func (c *Client) Command(ctx context.Context, id string) (Command, error) {
	return get[Command](ctx, c, commandPath(id, ""), nil)
}

// ExplainCommand says why a command is as it is, what comes next, and what one may do.
func (c *Client) ExplainCommand(ctx context.Context, id string) (Explanation, error) {
	return get[Explanation](ctx, c, commandPath(id, "/explain"), nil)
}

// OrderCommand gives an order about a command: cancel, reconcile, resolve.
func (c *Client) OrderCommand(ctx context.Context, id, verb string, o CommandOrder) (Command, error) {
	return post[Command](ctx, c, commandPath(id, "/"+url.PathEscape(verb)), nil, o)
}
