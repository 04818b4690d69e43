// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"maps"
	"slices"
)

// None is the index of a host that has none.
const None = -1

// Change gives a host an index, or takes it back: From or To is None then.
type Change struct {
	Host     string
	From, To int
}

// Enrol says which indices have to change so that exactly these hosts have one, no two the
// same, and the hosts are spread evenly over this many workers: indices of hosts that are
// gone are free again; who comes gets the lowest free index of a worker that is preferred by
// the fewest; and only where a leave, or another number of workers, has left one worker with
// two hosts more than another does a host get another index. Changes are to be made in
// their order. have is not changed.
func Enrol(have map[string]int, hosts []string, workers int) []Change {
	e := enrolment{at: map[string]int{}, host: map[int]string{}, count: make([]int, max(workers, 1))}
	wanted := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		wanted[h] = true
	}
	var out []Change
	for _, h := range slices.Sorted(maps.Keys(have)) {
		i := have[h]
		if _, taken := e.host[i]; !wanted[h] || taken || i < 0 {
			out = append(out, Change{h, i, None})
			continue
		}
		e.put(h, i)
	}
	for _, h := range slices.Sorted(maps.Keys(wanted)) {
		if _, ok := e.at[h]; !ok {
			i := e.free(e.emptiest())
			e.put(h, i)
			out = append(out, Change{h, None, i})
		}
	}
	for {
		low, high := e.emptiest(), e.fullest()
		if e.count[high]-e.count[low] <= 1 {
			return out
		}
		from := e.highest(high)
		to, h := e.free(low), e.host[from]
		delete(e.host, from)
		e.count[high]--
		e.put(h, to)
		out = append(out, Change{h, from, to})
	}
}

// enrolment counts hosts by the worker that their index prefers.
type enrolment struct {
	at    map[string]int
	host  map[int]string
	count []int
	next  map[int]int // where the search for a free index of a worker begins
	top   map[int]int // where the search for the highest begins
}

func (e *enrolment) put(host string, i int) {
	e.at[host], e.host[i] = i, host
	e.count[i%len(e.count)]++
}

// emptiest is the worker that fewest hosts prefer; of several the one with the lowest free index.
func (e *enrolment) emptiest() int {
	best := 0
	for w, n := range e.count {
		if n < e.count[best] || n == e.count[best] && e.free(w) < e.free(best) {
			best = w
		}
	}
	return best
}

func (e *enrolment) fullest() int {
	best := 0
	for w, n := range e.count {
		if n > e.count[best] {
			best = w
		}
	}
	return best
}

// free is the lowest free index of a worker.
func (e *enrolment) free(w int) int {
	if e.next == nil {
		e.next = map[int]int{}
	}
	i := max(w, e.next[w])
	for e.host[i] != "" {
		i += len(e.count)
	}
	e.next[w] = i
	return i
}

// highest is the highest index in use of a worker that has one.
func (e *enrolment) highest(w int) int {
	if e.top == nil {
		e.top = map[int]int{}
		for i := range e.host {
			e.top[i%len(e.count)] = max(e.top[i%len(e.count)], i)
		}
	}
	i := e.top[w]
	for e.host[i] == "" {
		i -= len(e.count)
	}
	e.top[w] = i
	return i
}
