// SPDX-License-Identifier: Apache-2.0

package v1

import "time"

// Budget is one power-down budget: how many incidents with a power action a host,
// cluster, pod or zone may see in a window.
type Budget struct {
	Scope     string        `json:"scope"` // host/…, cluster/…, pod/…, zone/…
	Used      int           `json:"used"`
	Limit     int           `json:"limit"` // with the grants in force
	Window    string        `json:"window"`
	Next      string        `json:"next,omitempty"`    // used up: duration until a slot is free by itself
	Latched   bool          `json:"latched,omitempty"` // an incident asked and found none: stopped until somebody resets or grants
	LatchedAt time.Time     `json:"latchedAt,omitzero"`
	Grants    []BudgetGrant `json:"grants,omitempty"` // in force
	Reset     *BudgetReset  `json:"reset,omitempty"`  // the last one
}

// BudgetGrant adds slots to a budget until it expires.
type BudgetGrant struct {
	Extra  int       `json:"extra"`
	Until  time.Time `json:"until"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// BudgetReset is who opened a budget again, when and why.
type BudgetReset struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// BudgetRequest asks to reset a budget, or to grant it more.
type BudgetRequest struct {
	Reason string `json:"reason"`
	Extra  int    `json:"extra,omitempty"` // grant only: slots, 1 to 1000
	For    string `json:"for,omitempty"`   // grant only: duration, up to 720h
}

// Area is a rack, switch, PDU, pool, cluster, pod or zone that is in a storm, or was: its
// hosts failed together, so that it is the suspect and not they. Nothing is switched off
// there, and the storm pages once for all its hosts.
type Area struct {
	Area    string       `json:"area"`  // rack/z1/7, pool/nfs1, cluster/z1/p1/c1
	State   string       `json:"state"` // see AreaStates
	Began   time.Time    `json:"began"`
	Ended   time.Time    `json:"ended,omitzero"`
	Why     string       `json:"why"`
	Under   string       `json:"under,omitempty"` // another area whose storm explains this one
	Hosts   int          `json:"hosts"`           // of the area
	Members []AreaMember `json:"members"`         // hosts that were part of the storm
	More    int          `json:"more,omitempty"`  // beyond those listed
	Paged   time.Time    `json:"paged,omitzero"`
	Until   time.Time    `json:"until,omitzero"` // over: the end of the cooldown
}

// AreaMember is one host of a storm.
type AreaMember struct {
	Host  string    `json:"host"`
	State string    `json:"state"` // HA state now
	Since time.Time `json:"since"`
	Left  time.Time `json:"left,omitzero"` // when it was well again, or proven off
}

// AreaStates: a storm is under way; it ended less than guard.storm.cooldown ago; or it is
// over.
var AreaStates = []string{"STORM", "COOLDOWN", "OVER"}
