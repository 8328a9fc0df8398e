package consensus

import (
	"bufio"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// A sealed snapshot is a random prefix and chunks, each sealed by itself under
// the nonce prefix | chunk number | last: none can be changed, moved, left out
// or cut off unnoticed (the STREAM construction, Hoang et al. 2015). Only the
// last chunk may be shorter than the others, and it may be empty.
const (
	chunkSize   = 64 << 10
	prefixSize  = 15
	snapshotTag = 16 // of XChaCha20-Poly1305
)

// sealedSnapshots encrypts what a file snapshot store keeps.
type sealedSnapshots struct {
	files *raft.FileSnapshotStore
	aead  cipher.AEAD
}

// Create implements raft.SnapshotStore.
func (s *sealedSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration,
	ci uint64, t raft.Transport,
) (raft.SnapshotSink, error) {
	sink, err := s.files.Create(v, index, term, c, ci, t)
	if err != nil {
		return nil, err
	}
	w, err := newSealWriter(s.aead, sink)
	if err != nil {
		sink.Cancel() // the first error says more
		return nil, err
	}
	return &sealedSink{SnapshotSink: sink, w: w}, nil
}

// List implements raft.SnapshotStore.
func (s *sealedSnapshots) List() ([]*raft.SnapshotMeta, error) {
	list, err := s.files.List()
	for _, m := range list {
		m.Size = plainSize(m.Size)
	}
	return list, err
}

// Open implements raft.SnapshotStore.
func (s *sealedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, rc, err := s.files.Open(id)
	if err != nil {
		return nil, nil, err
	}
	m.Size = plainSize(m.Size) // raft sends so many bytes of what it reads to followers
	return m, newSealReader(s.aead, rc), nil
}

// plainSize is the length of what a sealed file of this size holds.
func plainSize(sealed int64) int64 {
	body := sealed - prefixSize
	chunks := (body + chunkSize + snapshotTag - 1) / (chunkSize + snapshotTag)
	return max(0, body-chunks*snapshotTag)
}

type sealedSink struct {
	raft.SnapshotSink
	w *sealWriter
}

func (s *sealedSink) Write(p []byte) (int, error) { return s.w.Write(p) }

func (s *sealedSink) Close() error {
	if err := s.w.finish(); err != nil {
		return errors.Join(err, s.Cancel())
	}
	return s.SnapshotSink.Close()
}

// chunkNonce numbers the chunks of one snapshot.
type chunkNonce struct {
	prefix [prefixSize]byte
	next   uint64
}

func (n *chunkNonce) take(last bool) []byte {
	out := binary.BigEndian.AppendUint64(append([]byte{}, n.prefix[:]...), n.next)
	n.next++
	if last {
		return append(out, 1)
	}
	return append(out, 0)
}

type sealWriter struct {
	aead  cipher.AEAD
	w     io.Writer
	nonce chunkNonce
	buf   []byte
}

func newSealWriter(aead cipher.AEAD, w io.Writer) (*sealWriter, error) {
	s := &sealWriter{aead: aead, w: w, buf: make([]byte, 0, chunkSize)}
	if _, err := rand.Read(s.nonce.prefix[:]); err != nil {
		return nil, err
	}
	_, err := w.Write(s.nonce.prefix[:])
	return s, err
}

// Write holds a full chunk back until more comes: it may be the last.
func (s *sealWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if len(s.buf) == chunkSize {
			if err := s.flush(false); err != nil {
				return total - len(p), err
			}
		}
		n := min(chunkSize-len(s.buf), len(p))
		s.buf, p = append(s.buf, p[:n]...), p[n:]
	}
	return total, nil
}

func (s *sealWriter) finish() error { return s.flush(true) }

func (s *sealWriter) flush(last bool) error {
	_, err := s.w.Write(s.aead.Seal(nil, s.nonce.take(last), s.buf, nil))
	s.buf = s.buf[:0]
	return err
}

type sealReader struct {
	io.Closer
	aead   cipher.AEAD
	r      *bufio.Reader
	nonce  chunkNonce
	begun  bool
	ended  bool
	sealed []byte
	plain  []byte
}

func newSealReader(aead cipher.AEAD, sealed io.ReadCloser) *sealReader {
	return &sealReader{aead: aead, r: bufio.NewReaderSize(sealed, chunkSize+snapshotTag+1), Closer: sealed}
}

func (s *sealReader) Read(p []byte) (int, error) {
	for len(s.plain) == 0 {
		if s.ended {
			return 0, io.EOF
		}
		if err := s.fill(); err != nil {
			return 0, fmt.Errorf("consensus: read sealed snapshot: %w", err)
		}
	}
	n := copy(p, s.plain)
	s.plain = s.plain[n:]
	return n, nil
}

func (s *sealReader) fill() error {
	if !s.begun {
		if _, err := io.ReadFull(s.r, s.nonce.prefix[:]); err != nil {
			return noEOF(err)
		}
		s.begun, s.sealed = true, make([]byte, chunkSize+snapshotTag)
	}
	n, err := io.ReadFull(s.r, s.sealed)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return noEOF(err)
	}
	if err == nil {
		_, err = s.r.Peek(1)
	}
	s.ended = err != nil // nothing follows: this must be the last chunk
	s.plain, err = s.aead.Open(nil, s.nonce.take(s.ended), s.sealed[:n], nil)
	return err
}

// noEOF: an end is an error where more must come.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
