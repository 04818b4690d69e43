// SPDX-License-Identifier: Apache-2.0

package leases

import "encoding/json"

// Key is the key that an Op writes or deletes.
func (o Op) Key() string { return o.key }

// Value is what an Op writes, nil for a deletion.
func (o Op) Value() json.RawMessage {
	if o.del {
		return nil
	}
	return json.RawMessage(o.value)
}
