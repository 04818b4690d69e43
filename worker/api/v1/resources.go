// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// What pools, volumes and instances can be.
var (
	PoolTypes      = []string{"local", "nfs"}         // a directory of one host; a mounted directory of several
	PoolRoles      = []string{"primary", "secondary"} // of instances' volumes; of templates and copies
	Formats        = []string{"raw", "qcow2"}
	InstanceStates = []string{"running", "stopped"}
)

// Pool is a storage pool: the value of pools/<pool>.
type Pool struct {
	V        int      `json:"v"`
	ID       string   `json:"id"`
	Type     string   `json:"type"`            // PoolTypes
	Role     string   `json:"role"`            // PoolRoles
	Hosts    []string `json:"hosts,omitempty"` // that have it: of a local one exactly one; of a shared one, empty: those whose declaration names it
	Revision int64    `json:"revision,omitempty"`
}

// Place is a file on a pool.
type Place struct {
	Pool string `json:"pool"`
	Path string `json:"path"` // relative to the pool
}

func (p Place) String() string { return p.Pool + ":" + p.Path }

// Volume is a disk: the value of volumes/<volume>. Where it is changes by commands only.
type Volume struct {
	V  int    `json:"v"`
	ID string `json:"id"`
	Place
	Format   string `json:"format"`
	Size     int64  `json:"size"`               // bytes that its guest sees
	Instance string `json:"instance,omitempty"` // that has it as a disk; kept by the instance's declaration
	From     string `json:"from,omitempty"`     // volume or template it was copied from

	State    string    `json:"state,omitempty"`   // ready, creating (a copy that is not complete), copying, moving
	Command  string    `json:"command,omitempty"` // the open command about it
	Since    time.Time `json:"since,omitzero"`
	Revision int64     `json:"revision,omitempty"`
}

// Template is what volumes are made from: the value of templates/<template>.
type Template struct {
	V        int     `json:"v"`
	ID       string  `json:"id"`
	Format   string  `json:"format"`
	Size     int64   `json:"size"`
	Copies   []Place `json:"copies"` // each is the whole template
	Command  string  `json:"command,omitempty"`
	Revision int64   `json:"revision,omitempty"`
}

// Instance is a guest: the value of instances/<instance>.
type Instance struct {
	V         int      `json:"v"`
	ID        string   `json:"id"`
	Host      string   `json:"host"` // where it is; changes by commands only
	HA        bool     `json:"ha"`   // it needs a host that is protected
	MemoryMiB int      `json:"memoryMiB"`
	CPUs      int      `json:"cpus"`
	Volumes   []string `json:"volumes"` // its disks, in the guest's order
	Kernel    string   `json:"kernel,omitempty"`
	Initrd    string   `json:"initrd,omitempty"`
	Args      string   `json:"args,omitempty"`

	State      string    `json:"state"`                // InstanceStates, as last seen
	Generation int64     `json:"generation,omitempty"` // raised whenever another host becomes its holder
	Command    string    `json:"command,omitempty"`
	Since      time.Time `json:"since,omitzero"`
	Revision   int64     `json:"revision,omitempty"`
}

// Named says of a resource which one it is; the revision is its ETag.
func (p Pool) Named() (kind, id string, revision int64)     { return "pool", p.ID, p.Revision }
func (v Volume) Named() (kind, id string, revision int64)   { return "volume", v.ID, v.Revision }
func (t Template) Named() (kind, id string, revision int64) { return "template", t.ID, t.Revision }
func (i Instance) Named() (kind, id string, revision int64) { return "instance", i.ID, i.Revision }

// Resource is one of the four kinds.
type Resource interface {
	Pool | Volume | Template | Instance
	Named() (kind, id string, revision int64)
}

func resourcePath(kind, id string) string { return "/v1/" + kind + "s/" + url.PathEscape(id) }

// Resources lists all of one kind.
func Resources[T Resource](ctx context.Context, c *Client) ([]T, error) {
	var none T
	kind, _, _ := none.Named()
	return all[T](ctx, c, "/v1/"+kind+"s", nil)
}

// GetResource is one of a kind.
func GetResource[T Resource](ctx context.Context, c *Client, id string) (T, error) {
	var none T
	kind, _, _ := none.Named()
	return get[T](ctx, c, resourcePath(kind, id), nil)
}

// PutResource declares one; revision as in PutHost. With force an instance may be on a
// host that placement refuses. With dry it is only checked.
func PutResource[T Resource](ctx context.Context, c *Client, r T, revision int64, force, dry bool) (T, error) {
	kind, id, _ := r.Named()
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	if dry {
		q.Set("dryRun", "true")
	}
	var out T
	err := c.do(ctx, request{method: http.MethodPut, path: resourcePath(kind, id), query: q, body: r, revision: revision}, &out)
	return out, err
}

// DeleteResource forgets one; nothing is deleted from a pool.
func DeleteResource[T Resource](ctx context.Context, c *Client, id string, revision int64) error {
	var none T
	kind, _, _ := none.Named()
	return c.do(ctx, request{method: http.MethodDelete, path: resourcePath(kind, id), revision: revision}, nil)
}
