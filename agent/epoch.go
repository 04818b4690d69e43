// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

const (
	epochFile = "epochs.json"
	// maxClusters bounds the memory. An installation has one etcd cluster; a restored one
	// may have another id.
	maxClusters = 8
)

// epoch is the highest seen under one etcd cluster id (leases.md §2.10).
type epoch struct {
	Cluster    string `json:"cluster"`
	Generation int64  `json:"generation"`
	Revision   int64  `json:"revision"`
}

func (e epoch) String() string { return fmt.Sprintf("%d/%d", e.Generation, e.Revision) }

// compare orders epochs of one cluster: generation first, then revision.
func (e epoch) compare(o epoch) int {
	return cmp.Or(cmp.Compare(e.Generation, o.Generation), cmp.Compare(e.Revision, o.Revision))
}

// epochs remember the highest epoch per cluster, the last used cluster first, in memory
// and in the state dir.
type epochs struct {
	disk *lane // nil: its writes may take as long as they do
	name string

	mu     sync.Mutex
	seen   []epoch
	unkept bool // memory is ahead of the file
}

// epochRecord is the file.
type epochRecord struct {
	V       int     `json:"v"`
	Highest []epoch `json:"highest"`
}

// loadEpochs reads the memory. A damaged file is an error: without it an agent could obey
// a worker that was replaced long ago.
func loadEpochs(dir string) (*epochs, error) {
	name := filepath.Join(dir, epochFile)
	b, err := readState(name)
	if err != nil {
		return nil, fmt.Errorf("read epoch memory: %w", err)
	}
	if b == nil {
		return &epochs{name: name}, nil
	}
	var r epochRecord
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("read epoch memory %s: damaged (%w); remove it only if no replaced worker can still reach this host", name, err)
	}
	if r.V != 1 {
		return nil, fmt.Errorf("read epoch memory %s: v is %d: this agent knows 1", name, r.V)
	}
	return &epochs{name: name, seen: r.Highest}, nil
}

// staleError refuses an epoch older than the highest seen.
type staleError struct{ got, seen epoch }

func (e *staleError) Error() string {
	return fmt.Sprintf("epoch %v is older than %v, the highest seen under cluster %s", e.got, e.seen, e.seen.Cluster)
}

// errUnkept: an epoch was admitted and is remembered until this process ends only.
var errUnkept = errors.New("epoch memory cannot be written")

// otherCluster refuses an epoch of another etcd cluster than the one used last: revisions
// of two clusters say nothing of each other, so only a newer generation comes after.
type otherCluster struct{ got, seen epoch }

func (e *otherCluster) Error() string {
	return fmt.Sprintf("epoch %v of cluster %s: this host has obeyed epoch %v of cluster %s, only a higher generation comes after that (docs/etcd-restore.md)", e.got, e.got.Cluster, e.seen, e.seen.Cluster)
}

// admit refuses an epoch that is missing, older than the highest of its cluster, or of
// another cluster than the last one without a newer generation than any seen, and
// remembers a newer one before it returns. errUnkept (wrapped) is no refusal: a full disk
// must not cut the host off.
func (m *epochs) admit(p *agentpb.Epoch) error {
	e := epoch{p.GetCluster(), p.GetGeneration(), p.GetRevision()}
	if e.Cluster == "" || e.Revision <= 0 || e.Generation < 0 {
		return fmt.Errorf("epoch %v of cluster %q: want a cluster id and a revision above 0", e, e.Cluster)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.seen) > 0 && m.seen[0].Cluster != e.Cluster {
		for _, s := range m.seen {
			if e.Generation <= s.Generation {
				return &otherCluster{e, s}
			}
		}
	}
	i := slices.IndexFunc(m.seen, func(s epoch) bool { return s.Cluster == e.Cluster })
	if i >= 0 {
		switch order := e.compare(m.seen[i]); {
		case order < 0:
			return &staleError{e, m.seen[i]}
		case order == 0 && i == 0 && !m.unkept:
			return nil
		}
		m.seen = slices.Delete(m.seen, i, i+1)
	}
	m.seen = slices.Insert(m.seen, 0, e)
	m.seen = m.seen[:min(len(m.seen), maxClusters)]
	return m.keep()
}

func (m *epochs) keep() error {
	b, err := json.MarshalIndent(epochRecord{V: 1, Highest: m.seen}, "", "  ")
	if err == nil {
		err = keepState(m.disk, m.name, append(b, '\n'))
	}
	if m.unkept = err != nil; err != nil {
		return fmt.Errorf("%w: %w", errUnkept, err)
	}
	return nil
}

// highest is the highest epoch of the cluster used last, nil before the first.
func (m *epochs) highest() *agentpb.Epoch {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.seen) == 0 {
		return nil
	}
	e := m.seen[0]
	return &agentpb.Epoch{Cluster: e.Cluster, Generation: e.Generation, Revision: e.Revision}
}
