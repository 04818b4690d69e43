// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Epoch orders the owners of a slot: the generation of the etcd data, then the
// mod_revision of the slot key (leases.md §1). Agents refuse anything below the highest
// they have seen. The zero Epoch means "never owned".
type Epoch struct {
	Generation int64 `json:"generation"`
	Revision   int64 `json:"revision"`
}

// String renders "3.1841".
func (e Epoch) String() string { return fmt.Sprintf("%d.%d", e.Generation, e.Revision) }

// IsZero reports whether e is the zero Epoch.
func (e Epoch) IsZero() bool { return e == Epoch{} }

// Compare returns -1, 0 or 1; the higher epoch is the later owner.
func (e Epoch) Compare(o Epoch) int {
	return cmp.Or(cmp.Compare(e.Generation, o.Generation), cmp.Compare(e.Revision, o.Revision))
}

// ParseEpoch is the inverse of String.
func ParseEpoch(s string) (Epoch, error) {
	g, r, ok := strings.Cut(s, ".")
	gen, errG := strconv.ParseUint(g, 10, 63)
	rev, errR := strconv.ParseUint(r, 10, 63)
	if !ok || errG != nil || errR != nil {
		return Epoch{}, fmt.Errorf("parse epoch %q: want <generation>.<revision>, such as 3.1841", s)
	}
	return Epoch{Generation: int64(gen), Revision: int64(rev)}, nil
}
