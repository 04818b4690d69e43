// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"
	"time"
)

// Algorithm says how the list of workers is sorted for each agent; the names are those of
// the setting agent.lb.algorithm.
type Algorithm string

const (
	Static     Algorithm = "static"     // as given, the same for all
	RoundRobin Algorithm = "roundrobin" // rotated by the index given at enrolment
	Shuffle    Algorithm = "shuffle"    // random per host, the same whoever computes it
	Ring       Algorithm = "ring"       // the owner first, then the ring's successors
)

// Input is all that the list of one host depends on.
type Input struct {
	Algorithm Algorithm // an unknown one counts as Ring
	Workers   []string  // as configured, or all members in the order of their ids; doubles count once
	Host      string
	Index     int    // given at enrolment; below 0: none yet, one is made of the host's id
	Owner     string // of the host now; empty: none
	Key       string // what the host's slot is made of: its partition, or itself
}

// For returns the workers that a host's agent links to, the preferred one first. The
// result is the caller's.
func For(in Input) []string {
	var all []string
	for _, w := range in.Workers {
		if w != "" && !slices.Contains(all, w) {
			all = append(all, w)
		}
	}
	if len(all) < 2 {
		return all
	}
	switch in.Algorithm {
	case Static:
		return all
	case RoundRobin:
		i := in.Index
		if i < 0 {
			h := rank(in.Host, "")
			i = int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		}
		i %= len(all)
		return slices.Concat(all[i:], all[:i])
	case Shuffle:
		return byRank(in.Host, all, func(string) int { return 0 })
	default:
		return byRank(in.Key, all, func(w string) int {
			if w == in.Owner {
				return 0
			}
			return 1
		})
	}
}

// byRank sorts by class, then as the rendezvous hash of key and worker has it.
func byRank(key string, all []string, class func(string) int) []string {
	ranks := make(map[string][32]byte, len(all))
	for _, w := range all {
		ranks[w] = rank(key, w)
	}
	slices.SortFunc(all, func(a, b string) int {
		x, y := ranks[a], ranks[b]
		return cmp.Or(cmp.Compare(class(a), class(b)), -bytes.Compare(x[:], y[:]), cmp.Compare(a, b))
	})
	return all
}

func rank(key, worker string) [32]byte { return sha256.Sum256([]byte(key + "\x00" + worker)) }

// Members are the workers that lists are made of: those that live, and those that are
// missing for less than the grace (gone: since when each is missing). It returns them in
// order of their ids, and when the next of the missing ones leaves the lists; zero: none.
func Members(live []string, gone map[string]time.Time, now time.Time, grace time.Duration) (members []string, next time.Time) {
	members = slices.Clone(live)
	for id, since := range gone {
		until := since.Add(grace)
		if slices.Contains(live, id) || !until.After(now) {
			continue
		}
		members = append(members, id)
		if next.IsZero() || until.Before(next) {
			next = until
		}
	}
	slices.Sort(members)
	return slices.Compact(members), next
}
