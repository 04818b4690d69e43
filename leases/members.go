// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"strconv"
)

// Member is an etcd member's word about itself; Errors also says what was wrong with
// asking. Ids are hexadecimal, as etcdctl shows them; sizes are in bytes.
type Member struct {
	Endpoint string
	Version  string
	Cluster  string
	Member   string
	Leader   string
	Revision int64
	Term     uint64
	Index    uint64
	Size     int64
	InUse    int64
	Errors   []string
}

// Members asks every endpoint that the client was given; it takes statusTimeout for each
// that does not answer at most, and never fails.
func (c *Client) Members(ctx context.Context) (out []Member) {
	for _, e := range c.data.Endpoints() {
		one, cancel := context.WithTimeout(ctx, statusTimeout)
		st, err := c.data.Status(one, e)
		cancel()
		if err != nil {
			out = append(out, Member{Endpoint: e, Errors: []string{err.Error()}})
			continue
		}
		out = append(out, Member{
			Endpoint: e, Version: st.Version, Cluster: strconv.FormatUint(st.Header.GetClusterId(), 16), Member: strconv.FormatUint(st.Header.GetMemberId(), 16),
			Leader: strconv.FormatUint(st.Leader, 16), Revision: st.Header.GetRevision(), Term: st.RaftTerm, Index: st.RaftIndex, Size: st.DbSize, InUse: st.DbSizeInUse, Errors: st.Errors,
		})
	}
	return out
}
