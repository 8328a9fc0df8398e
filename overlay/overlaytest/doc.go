// Package overlaytest is for tests of encryption: it looks at what nodes send each other, and keeps the WireGuard processes of several nodes
// on one machine apart.
package overlaytest
