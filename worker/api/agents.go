// SPDX-License-Identifier: Apache-2.0

package api

import (
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// algorithms that lists of agents can be sorted by.
var algorithms = []string{"ring", "static", "roundrobin", "shuffle"}

// listAgents answers from the mirror where agents belong and where their links are.
func listAgents(c *call) error {
	algorithm := c.query.Get("algorithm")
	if algorithm != "" && !slices.Contains(algorithms, algorithm) {
		return v1.BadField("algorithm", "%q, allowed are %s", algorithm, strings.Join(algorithms, ", "))
	}
	all, err := c.b.Agents(c.ctx(), algorithm)
	if err != nil {
		return err
	}
	return page(c, all, func(a v1.Agent) string { return a.Host }, false)
}

// rebalanceAgent asks one agent to look now; only its host's owner can.
func rebalanceAgent(c *call) error {
	if done, err := c.askOwner(c.id(), nil, readForward, false); done || err != nil {
		return err
	}
	a, err := c.b.RebalanceAgent(c.ctx(), c.who, c.id())
	if err != nil {
		return err
	}
	return c.reply(a)
}
