// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-ha/holdfast/coordinator/power"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// An identity proves that it is the enrolled box (power.md §6.2.1), not that it is the
// host's: who gives two hosts the address of one BMC enrolls one box twice, and would cut
// the power of the one to prove the other off. A box that answers for two hosts is trusted
// for neither, until their addresses differ or a declaration names the identity itself.

// boxOf names a box among those of all hosts; empty: it does not say who it is. Certificates
// may be shared, and serials are counted by maker: only both together name a box.
func boxOf(i power.Identity) string {
	if i.SystemUUID != "" || i == (power.Identity{}) {
		return i.SystemUUID
	}
	return i.Serial + "/" + i.Fingerprint
}

// boxRecord is what a power record says of boxes.
type boxRecord struct {
	Devices map[string]struct {
		Pinned power.Identity `json:"pinned"`
		Seen   power.Identity `json:"seen"`
	} `json:"devices"`
}

// keepBoxes follows a host's power record. The caller holds v.mu.
func (v *view) keepBoxes(host string, has boxRecord) {
	for _, b := range v.boxesOf[host] {
		if delete(v.boxes[b], host); len(v.boxes[b]) == 0 {
			delete(v.boxes, b)
		}
	}
	delete(v.boxesOf, host)
	for _, d := range has.Devices {
		for _, i := range []power.Identity{d.Pinned, d.Seen} {
			if b := boxOf(i); b != "" {
				add(v.boxes, b, host)
				v.boxesOf[host] = append(v.boxesOf[host], b)
			}
		}
	}
}

// twins are the other hosts that a device of theirs was this box for.
func (v *view) twins(host string, i power.Identity) []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	all := maps.Clone(v.boxes[boxOf(i)])
	maps.DeleteFunc(all, func(h string, _ bool) bool {
		_, declared := v.specs[h]
		return h == host || !declared
	})
	return slices.Sorted(maps.Keys(all))
}

// answersForTwo says that the box of a device is that of another host, too; nil where it is
// not, or where the declaration itself names the identity.
func (w *Worker) answersForTwo(host string, d device, i power.Identity) error {
	others := w.view.twins(host, i)
	if len(others) == 0 || declaredIdentity(d) != (power.Identity{}) {
		return nil
	}
	return &wpower.Error{Kind: power.IdentityMismatch, Op: "compare identity of " + d.Address,
		Detail: fmt.Sprintf("it answers as %s, as does a device of host %s: what is switched off here would be that one; one of the addresses is wrong, or the declaration of each must name its identity", identityWords(i), others[0])}
}
