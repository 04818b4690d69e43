// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"net/url"
)

// Agent is where the agent of one host belongs and where its link is, by what is on record.
type Agent struct {
	Host      string   `json:"host"`
	Owner     string   `json:"owner,omitempty"`   // worker that owns the host now
	Carrier   string   `json:"carrier,omitempty"` // worker that holds its link; frames go to the owner from there
	Algorithm string   `json:"algorithm"`         // of its list
	Workers   []string `json:"workers"`           // its list, the preferred one first
	Index     *int     `json:"index,omitempty"`   // given at enrolment
	Moves     string   `json:"moves,omitempty"`   // worker that it moves to when it looks next; empty: it is linked to the preferred one
}

// Agents tells of every host's agent. With an algorithm it tells where they would belong
// and move if that were set.
func (c *Client) Agents(ctx context.Context, algorithm string) ([]Agent, error) {
	v := url.Values{}
	set(v, "algorithm", algorithm)
	return all[Agent](ctx, c, "/v1/agents", v)
}

// RebalanceAgent asks the agent of a host to move now where its list says, instead of when
// it looks next. The answer is how it was when it was asked.
func (c *Client) RebalanceAgent(ctx context.Context, host string) (Agent, error) {
	return post[Agent](ctx, c, hostPath(host, "/rebalance"), nil, nil)
}
