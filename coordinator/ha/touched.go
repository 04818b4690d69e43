// SPDX-License-Identifier: Apache-2.0

package ha

import "slices"

// Touched names the incidents that a step belongs to: the one that is open after it, the
// one that was open before it, and those that it has ended. None: nobody is suspected.
func Touched(before, after Record, effects []Effect) (ids []string) {
	add := func(i *Incident) {
		if !slices.Contains(ids, i.ID) {
			ids = append(ids, i.ID)
		}
	}
	if before.open() {
		add(before.Incident)
	}
	for _, e := range effects {
		if e.Kind == CloseIncident {
			add(e.Incident)
		}
	}
	if after.open() {
		add(after.Incident)
	}
	return ids
}
